"""The prompts of voices: computed once, while the first tokens are awaited, and never at another stream's cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.engine.backends import AudioFormat, CostModel, Hop, SimulatedBackend, SimulatedState
from services.decode.engine.scheduler import EngineLimits, Moment, Stream, prompt_to_begin
from services.decode.engine.service_time import ServiceTime
from tests.unit.decode import decode_support as support


def test_the_simulated_backend_computes_a_voices_prompt_once() -> None:
    slept: list[float] = []
    costs = CostModel(batch_s=0.0, stream_s=0.0, frame_s=1.0, holdback_frames=0)
    backend = SimulatedBackend(costs, AudioFormat(), slept.append)
    spec = support.voice(60, voice="one")

    def seconds() -> float:
        slept.clear()
        backend.run([Hop(backend.open(spec), support.speech(15), 75, final=True)], lambda: None)
        return sum(slept)

    assert seconds() == pytest.approx(2 * 75)
    assert seconds() == pytest.approx(2 * (75 - 50))  # the prompt's whole chunks are kept
    assert backend.prompt_tokens("one", spec.plan) == 50
    backend.evict_voice("one")
    assert seconds() == pytest.approx(2 * 75)


class Beginning(SimulatedBackend):
    """Counts the prompts that are computed before the tokens arrive; the first one fails."""

    def __init__(self) -> None:
        super().__init__(CostModel(0.02, 0.01, 0.001), AudioFormat(), lambda seconds: None)
        self.begun: list[str] = []

    def begin(self, state: SimulatedState, beat: Callable[[], None]) -> None:
        self.begun.append(state.voice)
        if len(self.begun) == 1:
            raise RuntimeError("out of memory")


def test_a_new_voices_prompt_is_computed_before_the_first_tokens_arrive() -> None:
    """Once per stream, and not where nothing can be shared; an error leaves it to the first hop."""
    backend = Beginning()
    with support.running(backend) as engine:
        listeners, handles = [support.Listener() for _ in range(4)], []
        specs = [support.voice(60, voice="a"), support.voice(60, voice="b"), support.voice(10, voice="short")]
        for spec, listener in zip([*specs, support.voice(60)], listeners, strict=True):
            handles.append(engine.open(spec, listener))
        support.wait_until(lambda: backend.begun == ["a", "b"])
        for handle in handles:
            engine.push(handle, support.speech(60), last=True)
        assert [len(listener.wait()) for listener in listeners] == [60 * 960] * 4
        assert support.speak(engine, specs[1], support.speech(60)).wait().size
    assert backend.begun == ["a", "b"], "the prompt of a known voice is there"


def test_a_prompt_that_would_make_another_stream_late_waits_for_its_own_tokens() -> None:
    audio, limits, times = AudioFormat(), EngineLimits(first_audio_s=1.0), ServiceTime()
    for tokens in (25, 50, 100):
        times.observe(1, tokens, 0.01 * tokens)
    opened = Stream(support.voice(60, voice="new"), 0.0, ChunkPlan())
    waiting = Stream(support.voice(60, voice="known"), 0.0, ChunkPlan())

    def chosen(now: float, *streams: Stream) -> Stream | None:
        kept = {opened: 0, waiting: 50}
        return prompt_to_begin(streams, Moment(now, audio, limits, times, kept.__getitem__))

    assert chosen(0.0, opened, waiting) is opened
    assert chosen(0.5, opened, waiting) is None, "0.5 s of prompt and 0.25 s of a hop are more than is left"
    assert chosen(0.5, opened) is opened
    opened.begun = True
    assert chosen(0.0, opened, waiting) is None
