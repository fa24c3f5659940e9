"""The decode step as one ONNX Runtime graph: the same tokens as with single operations."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from services.common.checkpoint.model_dir import ModelDir
from services.llm.engine.scheduler import EngineLimits
from services.llm.model.cpu_graph import step as cpu_graph
from services.llm.model.cpu_graph.step import FIRST_POSITIONS, CpuStep
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM, load_speech_lm
from services.llm.model.torch_backend import TorchBackend, TorchOptions
from tests.unit.llm.llm_support import Listener, MakeEngine, run, utterance

CPU = torch.device("cpu")
LIMITS = EngineLimits(max_running=6, total_tokens=480, max_request_tokens=96, block_size=4)


def all_ids(engine: Any, requests: list[Any]) -> list[tuple[int, ...]]:
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.submit(request, listener)
    return [listener.wait().raw_ids for listener in listeners]


@pytest.mark.parametrize("int8_kv", [False, True])
def test_the_graph_yields_the_same_tokens(make_engine: MakeEngine, mini_model: SpeechLM, int8_kv: bool) -> None:
    """Alone, in batches with prompts among the decoding sequences, preempted, resumed, and in two styles."""
    requests = [utterance(number, max_seconds=0.5) for number in range(5)]
    styles = {"calm": mini_model}
    plain = TorchBackend(mini_model, styles=styles, options=TorchOptions(int8_kv=int8_kv))
    with make_engine(LIMITS, plain) as engine:
        alone = [run(engine, request).raw_ids for request in requests]
    requests += [replace(requests[2], style="calm"), replace(requests[4], resume_ids=alone[4][:3])]
    alone += [alone[2], alone[4][3:]]
    for tokens in (LIMITS.total_tokens, LIMITS.max_request_tokens):
        graph = TorchBackend(mini_model, styles=styles, options=TorchOptions(int8_kv=int8_kv, cpu_graph=True))
        with make_engine(replace(LIMITS, total_tokens=tokens, prefill_tokens=5), graph) as engine:
            assert [run(engine, request).raw_ids for request in requests] == alone
            assert all_ids(engine, requests) == alone
            assert engine.stats().preemptions > 0 or tokens == LIMITS.total_tokens


@torch.inference_mode()
def test_positions_beyond_the_first_table(mini_model: SpeechLM) -> None:
    """One sequence is long, the other one short: its row is mostly masked."""
    config, size, length = mini_model.config, 16, FIRST_POSITIONS + 40
    width = length // size + 1
    caches = [KVCache(config, width + 3, size, CPU, torch.float32) for _ in range(2)]
    for cache in caches:
        generator = torch.Generator().manual_seed(0)
        cache.keys.normal_(generator=generator)
        cache.values.normal_(generator=generator)
    inputs = [SequenceInput((3,), length, tuple(range(width))), SequenceInput((4,), 17, (width, width + 1))]
    plain = mini_model(build_batch(inputs, size, CPU), caches[0])
    hidden, queries = CpuStep(mini_model, caches[1]).run(inputs)
    torch.testing.assert_close(hidden, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(caches[1].keys, caches[0].keys, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(caches[1].values, caches[0].values, atol=1e-4, rtol=1e-4)
    assert queries is None


def test_what_a_failed_sequence_left_in_its_blocks_is_cleared(make_engine: MakeEngine, mini_model: SpeechLM) -> None:
    backend = TorchBackend(mini_model, options=TorchOptions(cpu_graph=True))
    with make_engine(LIMITS, backend) as engine:
        expected = run(engine, utterance(3)).raw_ids
        assert backend._cache is not None
        backend._cache.keys.fill_(torch.nan)
        backend._cache.values.fill_(torch.nan)
        assert run(engine, utterance(3)).raw_ids == expected


class WrongStep(CpuStep):
    def run(self, inputs: Any) -> Any:
        hidden, queries = super().run(inputs)
        return hidden + 1, queries


@pytest.mark.parametrize("fault", ["wrong", "fails", "bfloat16"])
def test_single_operations_replace_a_graph_that_does_not_work(
    mini_dir: ModelDir,
    mini_model: SpeechLM,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    model = load_speech_lm(mini_dir, dtype=torch.bfloat16) if fault == "bfloat16" else mini_model
    if fault == "wrong":
        monkeypatch.setattr(cpu_graph, "CpuStep", WrongStep)
    elif fault == "fails":
        monkeypatch.setattr(cpu_graph, "StepExport", lambda *arguments, **more: 1 / 0)
    with caplog.at_level(logging.WARNING), make_engine(LIMITS, TorchBackend(model)) as engine:
        expected = run(engine, utterance(1)).raw_ids
    backend = TorchBackend(model, options=TorchOptions(cpu_graph=True))
    with caplog.at_level(logging.WARNING), make_engine(LIMITS, backend) as engine:
        assert run(engine, utterance(1)).raw_ids == expected
    [record] = caplog.records
    reasons = {"wrong": "differ", "fails": "zero", "bfloat16": "float32"}
    fields = vars(record)
    assert fields["setting"] == "llm_cpu_graph"
    assert reasons[fault] in fields["reason"]
