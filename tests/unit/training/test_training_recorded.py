"""Steps that a GPU repeats from a recording; on a CPU, the bookkeeping with a graph's stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from training import recorded
from training.fit import adam, descend, load_optimizer, set_rate
from training.recorded import Recorded

CPU = torch.device("cpu")


class _Graph:
    """Counts its replays."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class _Stream:
    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's CUDA calls do nothing, so that a `Recorded` of a CPU records."""

    @contextmanager
    def nothing(*given: object, **named: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: _Stream())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: _Stream())
    monkeypatch.setattr(torch.cuda, "stream", nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", nothing)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def _recorded(step: Any) -> Recorded[Any]:
    made: Recorded[Any] = Recorded(step, CPU, records=False)
    made._records, made._stream, made._pool = True, cast(Any, _Stream()), cast(Any, None)
    return made


def test_on_a_cpu_every_step_is_called() -> None:
    calls: list[object] = []

    def step(kind: str, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        calls.append(kind)
        return {"loss": inputs[0].sum()}

    taken = Recorded(step, CPU)
    assert [float(taken("a", (torch.full((2,), float(n)),))["loss"]) for n in range(6)] == [0, 2, 4, 6, 8, 10]
    assert calls == ["a"] * 6


@pytest.mark.usefixtures("as_on_gpu")
def test_each_kind_and_shape_has_a_recording_of_its_own() -> None:
    calls: list[tuple[str, int]] = []

    def step(kind: str, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        calls.append((kind, len(inputs[0])))
        return {"sum": inputs[0].sum()}

    taken = _recorded(step)
    for _ in range(recorded._PLAIN_STEPS + 5):
        for kind, length in (("a", 2), ("b", 2), ("a", 3)):
            taken(kind, (torch.ones(length),))
    assert len(calls) == 3 * (recorded._PLAIN_STEPS + 1)
    assert [cast(Any, one.graph).replays for one in taken._recordings.values()] == [5, 5, 5]


@pytest.mark.usefixtures("as_on_gpu")
def test_a_replay_reads_the_new_inputs() -> None:
    def step(kind: str, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"input": inputs[0]}

    taken = _recorded(step)
    for number in range(recorded._PLAIN_STEPS + 2):
        figures = taken("a", (torch.full((2,), float(number)),))
    assert figures["input"].tolist() == [recorded._PLAIN_STEPS + 1.0] * 2


@pytest.mark.usefixtures("as_on_gpu")
def test_a_step_that_cannot_be_recorded_is_taken_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    calls = 0

    def step(kind: str, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == recorded._PLAIN_STEPS + 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return {"sum": inputs[0].sum()}

    taken = _recorded(step)
    sums = [float(taken("a", (torch.full((2,), float(n)),))["sum"]) for n in range(6)]
    assert sums == [0, 2, 4, 6, 8, 10]
    assert capsys.readouterr().out.count("steps are not recorded") == 1


class _ReadBacks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what a recording cannot hold."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(function) for name in ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select")):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_the_training_steps_read_nothing_back() -> None:
    from training.networks.flow import FlowTrainer, Windows
    from training.networks.spectra import Spectra
    from training.networks.tokenizer import Tokenizer
    from training.networks.vocoder import VocoderTrainer
    from training.sizes import flow_config, vocoder_config
    from training.stages.flow import _matching

    flow, vocoder, tokens = FlowTrainer(flow_config()), VocoderTrainer(vocoder_config()), Tokenizer(40, 12)
    numbers = torch.zeros(2, 10 + flow.config.lookahead_tokens, dtype=torch.int64)
    mel = torch.randn(2, 20, 80)
    windows = Windows(numbers, mel, mel, torch.randn(2, 192), 5)
    spectra = Spectra()

    def steps() -> None:
        _matching(flow, flow.given(windows), mel).backward()  # type: ignore[no-untyped-call]
        rows = mel.transpose(1, 2)
        made = vocoder(rows, vocoder.pitch(rows))[:, : 20 * 480]
        sum(spectra.distance(made, torch.randn_like(made))).backward()  # type: ignore[union-attr]
        tokens.reader.read_phones(tokens.encoder(torch.randn(2, 128, 40))).sum().backward()  # type: ignore[no-untyped-call]

    steps()  # masks are made once
    with _ReadBacks() as counted:
        steps()
    assert counted.found == []


def test_an_optimizer_goes_on_with_its_own_rate_and_kernel() -> None:
    """A checkpoint of a GPU has the rate as a tensor, and flags that a CPU refuses."""
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    ours, theirs = adam(first, 0.1, (0.9, 0.99)), adam(second, 0.2, (0.9, 0.99))
    descend(theirs, second, second(torch.ones(1, 2)).sum())
    saved = theirs.state_dict()
    saved["param_groups"][0].update(lr=torch.tensor(0.2), fused=True, capturable=True)
    load_optimizer(ours, saved)
    set_rate(ours, 0.05)
    before = first.weight.detach().clone()
    descend(ours, first, first(torch.ones(1, 2)).sum())
    assert ours.param_groups[0]["lr"] == 0.05
    assert not ours.param_groups[0]["fused"]
    assert not torch.equal(before, first.weight)
