"""All ways to run the model against plain float32: lower precision, 8-bit integers, fixed-shape steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.llm.engine.backends import NonFiniteLogits
from services.llm.engine.layout import InputCodes
from services.llm.engine.scheduler import EngineLimits
from services.llm.engine.sequence import SamplingOptions
from services.llm.model import torch_backend
from services.llm.model.decode_program import DecodeProgram, Program
from services.llm.model.int8 import Int8Linear, quantize
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.prefill_program import PrefillProgram
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from tests.unit.llm.llm_support import ROOT, Listener, MakeEngine, run, utterance

CPU = torch.device("cpu")
LIMITS = EngineLimits(max_running=6, total_tokens=480, max_request_tokens=96, block_size=4)


@pytest.fixture(scope="module")
def tiny() -> ModelDir:
    """Trained weights: rounding of random ones shows little."""
    torch.set_num_threads(1)
    return open_model_dir(ROOT / "models" / "tiny")


@pytest.fixture(scope="module")
def float32(tiny: ModelDir) -> Tensor:
    return spoken_logits(tiny, load_speech_lm(tiny))


@torch.inference_mode()
def spoken_logits(directory: ModelDir, model: SpeechLM, *, int8_kv: bool = False) -> Tensor:
    """Return the logits of one utterance: a prompt fed at once, then sixty given tokens one by one."""
    codes, generator = InputCodes(directory.llm), torch.Generator().manual_seed(1)
    text = torch.randint(0, 400, (20,), generator=generator).tolist()
    speech = torch.randint(0, directory.llm.speech_tokens, (60,), generator=generator).tolist()
    prompt = [codes.sos, *text, codes.task]
    cache = KVCache(directory.llm, 20, 16, CPU, model.dtype, quantized=int8_kv)
    blocks = list(range(10))
    hidden = [model(build_batch([SequenceInput(prompt, 0, blocks)], 16, CPU), cache)]
    for position, token in enumerate(speech, start=len(prompt)):
        hidden.append(model(build_batch([SequenceInput([codes.speech(token)], position, blocks)], 16, CPU), cache))
    return model.logits(torch.cat(hidden))


PRECISIONS: dict[str, tuple[dict[str, Any], bool, float]] = {
    "bfloat16": ({"dtype": torch.bfloat16}, False, 5e-4),
    "float16": ({"dtype": torch.float16}, False, 2e-5),
    "int8 weights": ({"int8_weights": True}, False, 5e-3),
    "int8 weights, bfloat16": ({"int8_weights": True, "dtype": torch.bfloat16}, False, 5e-3),
    "int8 K/V": ({}, True, 5e-4),
    "int8 K/V, bfloat16": ({"dtype": torch.bfloat16}, True, 1e-3),
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_lower_precision_hardly_changes_the_distributions(tiny: ModelDir, float32: Tensor, name: str) -> None:
    options, int8_kv, bound = PRECISIONS[name]
    logits = spoken_logits(tiny, load_speech_lm(tiny, **options), int8_kv=int8_kv)
    assert logits.dtype == torch.float32
    divergence = (float32.softmax(-1) * (float32.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
    assert 0 < divergence.mean() < bound
    assert (logits.argmax(-1) == float32.argmax(-1)).float().mean() > 0.95


def test_quantised_rows_come_back_within_half_a_step() -> None:
    x = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(2)) * torch.tensor([1e-3, 1, 1e3])[:, None]
    stored, scale = quantize(x)
    assert ((stored * scale - x).abs() <= scale / 2 * 1.001).all()
    assert quantize(torch.zeros(1, 4))[0].tolist() == [[0, 0, 0, 0]]


def test_an_int8_product_is_the_float_product_of_the_rounded_factors() -> None:
    linear = torch.nn.Linear(48, 32)
    x = torch.randn(7, 48)
    weight, weight_scale = quantize(linear.weight.detach())
    rounded, row_scale = quantize(x)
    expected = (rounded * row_scale).double() @ (weight * weight_scale).double().t() + linear.bias.detach()
    torch.testing.assert_close(Int8Linear(linear, torch.float32)(x).double(), expected, atol=1e-5, rtol=1e-5)
    x[3, 0] = math.nan
    assert Int8Linear(linear, torch.float32)(x).isfinite().all(dim=1).tolist() == [True] * 3 + [False] + [True] * 3


@pytest.mark.parametrize("int8_kv", [False, True])
def test_fixed_shape_steps_yield_the_same_tokens(make_engine: MakeEngine, mini_model: SpeechLM, int8_kv: bool) -> None:
    """Programs for 1, 2 and 4 sequences, and batches too large for all of them."""
    requests = [utterance(number) for number in range(7)]
    plain = TorchBackend(mini_model, options=TorchOptions(int8_kv=int8_kv))
    with make_engine(LIMITS, plain) as engine:
        alone = [run(engine, request).raw_ids for request in requests]
    options = TorchOptions(int8_kv=int8_kv, program_sizes=(4, 1, 2), program_tokens=96, prefill_sizes=(48, 16))
    with make_engine(LIMITS, TorchBackend(mini_model, options=options)) as engine:
        assert [run(engine, request).raw_ids for request in requests] == alone
        listeners = [Listener() for _ in requests]
        for request, listener in zip(requests, listeners, strict=True):
            engine.submit(request, listener)
        assert [listener.wait().raw_ids for listener in listeners] == alone


@pytest.mark.parametrize("num_steps", [2, 5, 64])
def test_several_steps_in_one_run_yield_the_same_tokens(
    make_engine: MakeEngine, mini_model: SpeechLM, num_steps: int
) -> None:
    """With ends by stop and by length, text blocks, held and resumed runs, a full cache, and sequences without room."""
    requests = [utterance(number, max_seconds=0.5 + number) for number in range(5)]
    requests += [replace(request, text_order="interleaved") for request in requests]
    requests += [replace(requests[3], max_tokens=7)]
    with make_engine(LIMITS) as engine:
        alone = [run(engine, request).raw_ids for request in requests[:-1]]
    alone.append(alone[3])
    requests += [replace(requests[4], resume_ids=alone[4][:3])]
    alone.append(alone[4][3:])
    longest = LIMITS.max_request_tokens
    options = TorchOptions(program_sizes=(1, 16), program_tokens=longest, prefill_sizes=(16, 64))
    for blocks in (120, 60):
        limits = replace(LIMITS, steps_per_turn=num_steps, max_running=16, total_tokens=4 * blocks)
        with make_engine(limits, TorchBackend(mini_model, options=options)) as engine:
            listeners = [Listener() for _ in requests]
            handles = [engine.submit(*pair) for pair in zip(requests, listeners, strict=True)]
            held = listeners[requests.index(replace(requests[3], max_tokens=7))]
            held.wait_for_tokens(7)
            assert len(held.raw_ids) == 7
            engine.set_max_tokens(handles[listeners.index(held)], None)
            assert [listener.wait().raw_ids for listener in listeners] == alone
            assert engine.stats().preemptions > 0 or blocks == 120


def test_the_host_looks_at_a_program_once_for_several_steps(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    limits = replace(LIMITS, steps_per_turn=8)
    options = TorchOptions(program_sizes=(1,), program_tokens=LIMITS.max_request_tokens)
    with make_engine(limits, TorchBackend(mini_model, options=options)) as engine:
        listener = run(engine, utterance(4, max_seconds=2))
        assert engine.stats().model_steps >= len(listener.raw_ids) > 12
        assert len(listener.events) <= 3 + len(listener.raw_ids) / 4


@pytest.mark.parametrize("int8_kv", [False, True])
def test_programs_feed_prompts_of_any_number_and_length(
    make_engine: MakeEngine, mini_model: SpeechLM, monkeypatch: pytest.MonkeyPatch, int8_kv: bool
) -> None:
    """In pieces, with text that follows, after a preemption; nothing is left for single operations."""
    requests = [utterance(number) for number in range(7)]
    requests += [replace(request, text_order="interleaved") for request in requests[:3]]
    with make_engine(LIMITS, TorchBackend(mini_model, options=TorchOptions(int8_kv=int8_kv))) as engine:
        alone = [run(engine, request).raw_ids for request in requests]
    monkeypatch.setattr(torch_backend, "build_batch", mock.Mock(side_effect=AssertionError("a step without a program")))
    options = TorchOptions(int8_kv, program_sizes=(8,), program_tokens=96, prefill_sizes=(16, 32))
    for limits in (replace(LIMITS, total_tokens=160), replace(LIMITS, prefill_tokens=7), LIMITS):
        with make_engine(limits, TorchBackend(mini_model, options=options)) as engine:
            listeners = [Listener() for _ in requests]
            for request, listener in zip(requests, listeners, strict=True):
                engine.submit(request, listener)
            assert [listener.wait().raw_ids for listener in listeners] == alone
            assert engine.stats().preemptions > 0 or limits.total_tokens > 160


def test_prompts_are_prepared_while_the_device_decodes(
    make_engine: MakeEngine, mini_model: SpeechLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def follow(program: type[Program], method: str) -> None:
        original = getattr(program, method)

        def called(*arguments: Any) -> Any:
            calls.append(method)
            return original(*arguments)

        monkeypatch.setattr(program, method, called)

    follow(DecodeProgram, "launch")
    follow(DecodeProgram, "read")
    follow(PrefillProgram, "run")
    options = TorchOptions(program_sizes=(4,), program_tokens=96, prefill_sizes=(64,))
    with make_engine(LIMITS, TorchBackend(mini_model, options=options)) as engine:
        listeners = [Listener() for _ in range(3)]
        for number, listener in enumerate(listeners):
            engine.submit(utterance(number + 3, max_seconds=1), listener)
            listener.wait_for_tokens(2)
        assert all(listener.wait().finish_reason for listener in listeners)
    assert ["launch", "run", "read"] in [calls[i : i + 3] for i in range(len(calls))]


def test_sampling_a_program_cannot_hold_runs_without_it(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    request = replace(utterance(3), sampling=SamplingOptions(seed=3, top_k=6000, win_size=500))
    with make_engine(LIMITS) as engine:
        expected = run(engine, request).raw_ids
    with make_engine(
        LIMITS, TorchBackend(mini_model, options=TorchOptions(program_sizes=(4,), program_tokens=96))
    ) as engine:
        assert run(engine, request).raw_ids == expected


def test_numbers_too_large_for_float16_fail_their_own_sequence_with_a_remedy(
    make_engine: MakeEngine, mini_dir: ModelDir
) -> None:
    model = load_speech_lm(mini_dir, dtype=torch.float16)
    with torch.no_grad():
        model.llm.model.model.embed_tokens.weight[399] = math.inf
    with make_engine(
        LIMITS, TorchBackend(model, options=TorchOptions(program_sizes=(2,), program_tokens=96, prefill_sizes=(32,)))
    ) as engine:
        bad = Listener()
        engine.submit(replace(utterance(1), text_ids=(399, 2)), bad)
        assert run(engine, utterance(2)).finish_reason is not None
        assert isinstance(bad.wait().error, NonFiniteLogits)
        assert "float16 are not finite; a wider precision may help" in str(bad.error)


def test_styles_share_a_step_and_speak_differently(
    make_engine: MakeEngine, mini_model: SpeechLM, mini_dir: ModelDir
) -> None:
    other = load_speech_lm(mini_dir)
    with torch.no_grad():
        other.llm_decoder.weight.copy_(other.llm_decoder.weight.flip(0))
    with make_engine(LIMITS, TorchBackend(other)) as engine:
        theirs = run(engine, utterance(3)).raw_ids
    for options in (
        TorchOptions(),
        TorchOptions(program_sizes=(1, 4), program_tokens=96),
        TorchOptions(program_sizes=(1, 4), program_tokens=96, prefill_sizes=(64,)),
    ):
        backend = TorchBackend(mini_model, styles={"other": other}, options=options)
        with make_engine(LIMITS, backend) as engine:
            ours, styled = Listener(), Listener()
            engine.submit(utterance(3), ours)
            engine.submit(replace(utterance(3), style="other"), styled)
            assert styled.wait().raw_ids == theirs != ours.wait().raw_ids
