"""The engine over the real backend: streamed, batched and moved audio equals one-shot audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import open_model_dir
from services.decode.engine.hops import HopPolicy
from services.decode.engine.scheduler import EngineLimits
from services.decode.engine.state import StreamError
from services.decode.engine.torch_backend import NonFiniteAudio, TorchBackend
from tests.unit.decode import decode_support as support

ONE_HOP = HopPolicy(first_frames=14000)
SAME = 1e-3
"""Tolerance for runs whose mel differs by float rounding, which the phase accumulates."""


def alone(spec_options: dict[str, object], tokens: list[int], prompt: int = 30) -> np.ndarray:
    with support.running(support.mini_backend()) as engine:
        return support.speak(engine, support.voice(prompt, **spec_options), tokens).wait()


@settings(max_examples=6)
@given(prompt=st.integers(0, 60), count=st.integers(1, 110), feed=st.integers(1, 40), first_frames=st.integers(1, 60))
def test_streamed_is_one_shot(prompt: int, count: int, feed: int, first_frames: int) -> None:
    tokens = support.speech(count)
    with support.running(support.mini_backend()) as engine:
        streamed = support.speak(engine, support.voice(prompt, hops=HopPolicy(first_frames, (25,))), tokens, feed)
        audio = streamed.wait()
        whole = support.speak(engine, support.voice(prompt, hops=ONE_HOP), tokens).wait()
    assert audio.shape == whole.shape == (960 * count,)
    assert np.abs(audio - whole).max() <= SAME
    assert streamed.audio_events[-1].tokens_spoken == count


def test_a_hop_starts_as_soon_as_its_tokens_are_there() -> None:
    tokens = support.speech(45)
    with support.running(support.mini_backend()) as engine:
        listener = support.Listener()
        handle = engine.open(support.voice(30), listener)
        engine.push(handle, tokens[:23])  # the first boundary after 15 tokens is 50 = prompt + 20, and 3 of lookahead
        (first,) = listener.wait_events(1)
        held_back = support.mini_backend().vocoder.context.right
        assert first.samples.shape[0] == 480 * (40 - held_back)
        assert first.tokens_spoken == (40 - held_back) // 2
        engine.push(handle, tokens[23:], last=True)
        assert listener.wait().shape[0] == 960 * 45


def test_audio_does_not_depend_on_the_rest_of_the_batch() -> None:
    specs = [support.voice(30, seed=1), support.voice(10, seed=2), support.voice(60, seed=3)]
    texts = [support.speech(80, 1), support.speech(120, 2), support.speech(35, 3)]
    with support.running(support.mini_backend()) as engine:
        single = [support.speak(engine, spec, text).wait() for spec, text in zip(specs, texts, strict=True)]
    with support.running(support.mini_backend(), limits=EngineLimits(max_batch=3)) as engine:
        listeners = [support.speak(engine, spec, text, feed=30) for spec, text in zip(specs, texts, strict=True)]
        together = [listener.wait() for listener in listeners]
    for one, other in zip(single, together, strict=True):
        assert np.abs(one - other).max() <= SAME


@pytest.mark.parametrize("speed", [1.0, 1.25])
def test_a_moved_stream_continues_without_a_seam(speed: float) -> None:
    tokens, options = support.speech(110), {"seed": 9, "speed": speed, "hops": HopPolicy(15, (25,))}
    with support.running(support.mini_backend()) as engine:
        undisturbed = support.speak(engine, support.voice(30, **options), tokens)
        audio = undisturbed.wait()
        assert audio.shape[0] == 480 * int(220 / speed)
        for cut in range(1, len(undisturbed.audio_events)):
            before = undisturbed.audio_events[:cut]
            moved = support.speak(engine, support.voice(30, **options, resume=before[-1].resume), tokens)
            moved.wait()
            joined = support.joined([*before, *moved.audio_events])
            assert joined.shape == audio.shape
            assert np.abs(joined - audio).max() <= SAME


def test_a_record_that_is_ahead_of_its_tokens_fails() -> None:
    with support.running(support.mini_backend()) as engine:
        record = support.speak(engine, support.voice(), support.speech(60)).wait_events(2)[1].resume
        with pytest.raises(StreamError, match="ahead of the tokens"):
            support.speak(engine, support.voice(resume=record), support.speech(22)).wait()


def test_full_attention_last_hop_attends_to_everything() -> None:
    tokens = support.speech(40)
    whole = alone({"plan": ChunkPlan.whole()}, tokens)
    last = alone({"full_attention_last": True, "hops": ONE_HOP}, tokens)
    causal = alone({"hops": ONE_HOP}, tokens)
    assert np.abs(whole - last).max() <= SAME
    assert np.abs(whole - causal).max() > 0.01


@pytest.mark.parametrize("speed", [0.8, 1.5])
def test_speed_while_streaming(speed: float) -> None:
    tokens = support.speech(70)
    whole = alone({"speed": speed, "hops": ONE_HOP}, tokens)
    streamed = alone({"speed": speed, "hops": HopPolicy(5, (25,))}, tokens)
    assert whole.shape[0] == streamed.shape[0] == 480 * int(140 / speed)
    assert np.abs(whole - streamed).max() <= SAME


def test_state_is_freed_and_memory_reported() -> None:
    with support.running(support.mini_backend()) as engine:
        listener = support.Listener()
        handle = engine.open(support.voice(), listener)
        engine.push(handle, support.speech(30))
        listener.wait_events(1)
        support.wait_until(lambda: engine.stats().state_bytes > 0)
        engine.push(handle, [], last=True)
        listener.wait()
        support.wait_until(lambda: engine.stats().state_bytes == 0)
        assert engine.stats().finished == 1


def test_audio_that_is_not_finite_fails_its_stream() -> None:
    spec = support.voice()
    spec.prompt_mel[:] = 3e38
    with support.running(support.mini_backend()) as engine:
        with pytest.raises(NonFiniteAudio):
            support.speak(engine, spec, support.speech(40)).wait()
        assert np.isfinite(support.speak(engine, support.voice(10), support.speech(30)).wait()).all()


def test_the_embedded_voice_decodes() -> None:
    model: Path = support.ROOT / "models" / "tiny"
    backend = TorchBackend(open_model_dir(model))
    backend.warm_up()
    tokens = support.speech(60)
    with support.running(backend) as engine:
        streamed = support.speak(engine, support.voice(50, hops=HopPolicy(10, (25,))), tokens).wait()
        whole = support.speak(engine, support.voice(50, hops=ONE_HOP), tokens).wait()
    assert streamed.shape == (57_600,)
    assert np.isfinite(streamed).all()
    assert np.abs(streamed).max() <= 0.99
    assert np.abs(streamed - whole).max() <= SAME


def test_a_new_voices_prompt_is_computed_when_its_stream_opens() -> None:
    backend, tokens = support.mini_backend(), support.speech(20)
    before, expected = backend.counts(), alone({}, tokens, prompt=60)
    with support.running(backend) as engine:
        listener = support.Listener()
        handle = engine.open(support.voice(60, voice="computed before its tokens"), listener)
        support.wait_until(lambda: backend.counts().prompts_computed == before.prompts_computed + 1)
        engine.push(handle, tokens, last=True)
        assert np.abs(listener.wait() - expected).max() <= SAME
        engine.evict_voice("computed before its tokens")
    assert backend.counts().prompts_computed == before.prompts_computed + 1
