"""CosyVoice3 with sizes that no published checkpoint has: against computations from the specification alone, and as a
stream. A size that the code takes for granted fails here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.checkpoint.weights import read_weights
from services.decode.engine.backends import Hop
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import TorchBackend, TorchState
from services.decode.estimators.compiled import probe_mel, use_programs
from services.decode.flow.model import FlowHop
from tests.parity.reference import ReferenceVocoder
from tests.parity.reference_flow import ReferenceFlow
from tests.support.other_sizes import write_other_sizes
from tests.unit.decode import decode_support as support

PROMPT, SPEECH = 33, 71
"""Tokens; neither is a multiple of the chunk's."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    return open_model_dir(write_other_sizes(tmp_path_factory.mktemp("other") / "sizes"))


@pytest.fixture(scope="module")
def backend(model: ModelDir) -> TorchBackend:
    made = TorchBackend(model, state_bytes=50_000_000)
    made.warm_up()
    return made


def spec(model: ModelDir, resume: bytes = b"") -> StreamSpec:
    rng = np.random.default_rng(1)
    flow, ratio = model.flow, model.flow.mel_frames_per_token
    return StreamSpec(
        prompt_tokens=rng.integers(0, flow.vocab_size, PROMPT).astype(np.int32),
        prompt_mel=(2 * rng.standard_normal((ratio * PROMPT, flow.output_size)) - 5).astype(np.float32),
        embedding=rng.standard_normal(flow.speaker_dim).astype(np.float32),
        plan=ChunkPlan(flow.chunk_tokens, flow.chunk_tokens),
        voice="one",
        resume=resume,
    )


def speech(model: ModelDir) -> list[int]:
    return np.random.default_rng(2).integers(0, model.flow.vocab_size, SPEECH).tolist()


def flow_mel(backend: TorchBackend, model: ModelDir, ends: Sequence[int]) -> Tensor:
    state = backend.open(spec(model)).flow
    state.tokens = speech(model)
    return torch.cat([backend.flow.append([FlowHop(state, end, final=True)])[0] for end in ends])


def test_the_directory_differs_from_the_mini_in_every_size(model: ModelDir) -> None:
    mini = support.mini("cosyvoice3")
    for other, usual in ((model.flow, mini.flow), (model.flow.estimator, mini.flow.estimator)):
        same = {name for name in vars(other) if vars(other)[name] == vars(usual)[name]}
        assert same <= {"mel_frames_per_token"}
    same = {name for name in vars(model.vocoder) if vars(model.vocoder)[name] == vars(mini.vocoder)[name]}
    assert same <= {"causal", "sample_rate"}


def test_the_flow_is_the_specifications_in_one_go_and_in_hops(backend: TorchBackend, model: ModelDir) -> None:
    voice, config = spec(model), model.flow
    reference = ReferenceFlow(config, read_weights(model.weights_file("flow")))
    prompt, tokens = (torch.tensor(np.asarray(ids), dtype=torch.int64) for ids in (voice.prompt_tokens, speech(model)))
    noise = backend.flow.solver.noise(0, config.mel_frames_per_token * (PROMPT + SPEECH))
    expected = reference.mel(prompt, tokens, torch.tensor(voice.prompt_mel), torch.tensor(voice.embedding), noise)
    assert expected.std() > 0.5
    whole = flow_mel(backend, model, [PROMPT + SPEECH])
    hops = flow_mel(backend, model, [40, 80, PROMPT + SPEECH])
    torch.testing.assert_close(whole.double(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(hops.double(), expected, atol=2e-5, rtol=0)


def test_the_vocoder_is_the_specifications(backend: TorchBackend, model: ModelDir) -> None:
    vocoder, config = backend.vocoder, model.vocoder
    mel = 2.0 * torch.randn(24, config.in_channels, generator=torch.Generator().manual_seed(8)) - 5.0
    samples = vocoder.append(vocoder.open(seed=3), mel, last=True)
    noise = vocoder.noise.read(3, 0, mel.shape[0] * config.hop)
    reference = ReferenceVocoder(config, read_weights(model.weights_file("hift")))
    voiced = (reference.pitch(mel) > config.voiced_threshold).double().mean()
    assert 0.1 < voiced < 0.9, "the weights should give frames with and without voice"
    expected = reference.audio(mel, noise)
    assert expected.abs().mean() > 0.01
    torch.testing.assert_close(samples.double(), expected, atol=2e-5, rtol=0)


def heard(backend: TorchBackend, model: ModelDir, ends: Sequence[int], move: bool = False) -> NDArray[np.float32]:
    """The audio of hops to these tokens of the speech; after the first one the stream moves to another worker."""
    state: TorchState = backend.open(spec(model))
    made = []
    for end in ends:
        audio = backend.run([Hop(state, speech(model), PROMPT + end, final=True)], lambda: None)[0]
        assert not isinstance(audio, Exception)
        made.append(audio.samples)
        if move and len(made) == 1:
            state = backend.open(spec(model, resume=audio.record.to_bytes()))
    return np.concatenate(made)


def test_a_stream_is_its_one_shot_and_may_move(backend: TorchBackend, model: ModelDir) -> None:
    whole = heard(backend, model, [SPEECH])
    assert whole.shape == (SPEECH * model.flow.mel_frames_per_token * model.vocoder.hop,)
    assert np.abs(whole).mean() > 0.01
    for move in (False, True):
        streamed = heard(backend, model, [27, 47, 67, SPEECH], move)
        assert streamed.shape == whole.shape
        assert np.abs(streamed - whole).max() <= support.STREAMED
    assert backend.counts().prompts_shared > 0


def test_programs_of_fixed_shape_give_the_same(backend: TorchBackend) -> None:
    plain = probe_mel(backend.flow)
    use_programs(backend.flow, 1, None)
    try:
        torch.testing.assert_close(probe_mel(backend.flow), plain, atol=1e-5, rtol=0)
    finally:
        backend.flow.programs = None


def test_a_voice_of_another_checkpoint_is_refused_by_its_sizes(backend: TorchBackend, model: ModelDir) -> None:
    with pytest.raises(ValueError, match=r"speaker embedding is \[192\], expected \[40\]"):
        backend.check(replace(spec(model), embedding=np.zeros(192, np.float32)))
