"""The simulated backend in the real engine: the same tokens at every time and place, at the stated cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.common.checkpoint.model_dir import ModelDir
from services.llm.engine.backends import CostModel, SimulatedBackend
from services.llm.engine.sequence import Request
from tests.support.cuda import Cuda
from tests.unit.llm.llm_support import ROOT, Listener, MakeEngine, run, utterance

COSTS = CostModel(step_s=0.01, step_s_per_sequence=0.001, prefill_s_per_token=0.0001, tokens_per_text_id=5.0)


def test_tokens_depend_on_seed_position_and_text_length_alone(make_engine: MakeEngine, mini_dir: ModelDir) -> None:
    requests = [utterance(number, max_seconds=60) for number in range(1, 7)]
    slept: list[float] = []
    with make_engine(backend=SimulatedBackend(mini_dir.llm, COSTS, slept.append)) as engine:
        alone = [run(engine, request) for request in requests]
        listeners = [Listener() for _ in requests]
        for request, listener in zip(requests, listeners, strict=True):
            engine.submit(request, listener)
        assert [listener.wait().ids for listener in listeners] == [listener.ids for listener in alone]
        resumed = run(engine, replace(requests[3], resume_ids=alone[3].raw_ids[:9]))
        assert resumed.ids == alone[3].ids[9:]
    assert [len(listener.ids) for listener in alone] == [5 * len(request.text_ids) for request in requests]
    assert alone[0].finish_reason == "stop"
    assert all(0 <= i < mini_dir.llm.speech_tokens for listener in alone for i in listener.ids)
    assert min(slept) >= COSTS.step_s + COSTS.step_s_per_sequence


def test_interleaved_text_ends_too(make_engine: MakeEngine, mini_dir: ModelDir) -> None:
    with make_engine(backend=SimulatedBackend(mini_dir.llm, COSTS, lambda seconds: None)) as engine:
        spoken = run(engine, Request(tuple(range(12)), text_order="interleaved"))
    assert spoken.finish_reason == "stop"
    assert len(spoken.raw_ids) == 60
    assert mini_dir.llm.fill in spoken.raw_ids


def test_a_step_takes_the_time_of_the_cost_model(make_engine: MakeEngine, mini_dir: ModelDir) -> None:
    slept: list[float] = []
    request = Request((1, 2, 3))  # five rows of prompt, then one row for each token
    with make_engine(backend=SimulatedBackend(mini_dir.llm, COSTS, slept.append)) as engine:
        count = len(run(engine, request).ids)
    assert slept == pytest.approx([0.011 + 5 * 0.0001] + [0.011] * count)


def test_the_engine_steps_with_its_backends_device_current(
    make_engine: MakeEngine, mini_dir: ModelDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, seen = Cuda(monkeypatch), set()
    backend = SimulatedBackend(mini_dir.llm, COSTS, lambda seconds: seen.add(cuda.current))
    monkeypatch.setattr(backend, "device", torch.device("cuda:1"))
    with make_engine(backend=backend) as engine:
        run(engine, utterance(1))
    assert seen == {1}


def test_the_shipped_cost_files_are_readable() -> None:
    paths = list((ROOT / "services" / "llm" / "costs").glob("*.json"))
    assert paths
    assert all(CostModel.read(path).step_s > 0 for path in paths)


def test_cost_files(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"step_s": 0.002, "step_s_per_sequence": 0, "prefill_s_per_token": 1e-5}))
    assert CostModel.read(path) == CostModel(0.002, 0.0, 1e-5)
    for text in ("[]", "{", '{"step_s": 1}', '{"steps": 1}', '{"step_s": "x"}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"costs\.json must be a JSON object"):
            CostModel.read(path)
    path.write_text(json.dumps({"step_s": -1, "step_s_per_sequence": 0, "prefill_s_per_token": 0}))
    with pytest.raises(ValueError, match="finite and not negative"):
        CostModel.read(path)
    with pytest.raises(ValueError, match="missing"):
        CostModel.read(tmp_path / "missing.json")
