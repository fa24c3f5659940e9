"""Kernels of the Euler step are launched early if that is faster here and gives the same bits."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from services.decode import loading
from services.decode.engine import fastest
from services.decode.estimators.choice import EARLY, LATE, fastest_launch, steps_seconds
from services.decode.estimators.compiled import ProgramParts
from services.decode.estimators.fused import fused_network
from services.decode.estimators.kernels import PLAIN, LayerKernels
from services.decode.flow.block_attention import PlainAttention
from services.decode.flow.kv_cache import KvBlockPool
from services.decode.flow.model import Flow
from services.decode.settings import DecodeSettings
from tests.support.logs import capture_logs
from tests.unit.decode import decode_support as support

EARLY_KERNELS = LayerKernels(product=lambda *arguments, **around: PLAIN.product(*arguments, **around))
CUDA = torch.device("cuda")
Lines = list[MutableMapping[str, Any]]


class EarlyAttention(PlainAttention):
    """The plain attention, which may raise, and whose result may change from a call on: a race."""

    error: type[Exception] | None = None
    right_calls: float = float("inf")

    def __call__(self, *arguments: Any) -> Tensor:
        if self.error is not None:
            raise self.error("no such launch attribute")
        type(self).right_calls -= 1
        return super().__call__(*arguments) * (1.0 if self.right_calls >= 0 else 1.0 + 1e-6)


def attention(error: type[Exception] | None = None, right_calls: float = float("inf")) -> ProgramParts:
    return ProgramParts(type("Own", (EarlyAttention,), {"error": error, "right_calls": right_calls}))


def clock(*seconds: float) -> Callable[[Callable[[], None]], float]:
    """Takes these times for the calls, one after the other, and then no time."""
    left = itertools.chain(seconds, itertools.repeat(0.0))

    def measure(work: Callable[[], None]) -> float:
        work()
        return next(left)

    return measure


def choice(early: ProgramParts, *seconds: float) -> tuple[list[ProgramParts], Lines, list[str]]:
    """The chosen order, the lines of the log and the reasons of what is left out; `late` is `ProgramParts()`."""
    flow, reasons = support.mini_backend().flow, list[str]()
    free = flow.pool.free_blocks
    with capture_logs() as lines:
        order = fastest_launch(
            flow,
            ProgramParts(),
            early,
            2,
            None,
            lambda name, error: reasons.append(f"{name}: {error}"),
            clock(*seconds),
        )
    assert flow.programs is None
    assert flow.pool.free_blocks == free
    return order, lines, reasons


@pytest.mark.parametrize(
    ("seconds", "first"),
    [((0.010, 0.030, 0.006, 0.032), EARLY), ((0.010, 0.030, 0.009, 0.032), LATE)],
    ids=["faster in all", "slower in all"],
)
def test_the_faster_launch_is_used_and_the_log_has_both_times(
    seconds: tuple[float, ...], first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream, then the most: their times count together."""
    monkeypatch.setattr(fastest, "REPEATS", 1)
    early = attention()
    order, lines, reasons = choice(early, *seconds)
    assert order == ([early, ProgramParts()] if first == EARLY else [ProgramParts()])
    (line,) = lines
    assert line["fastest"] == first
    assert line["milliseconds"] == {LATE: 40.0, EARLY: round(1e3 * sum(seconds[2:]), 2)}
    assert not reasons


def calls_of_one_solve() -> int:
    steps, layers = support.EULER_STEPS, support.mini_backend().flow.pool.caches["estimator"].layout.layers
    return steps * layers


def test_early_launches_that_change_one_repetition_in_the_last_bits_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fastest, "REPEATS", 2)
    solves = 2 * (1 + 2)  # for one stream and for two: the past, then two repetitions
    right = solves * calls_of_one_solve()
    assert len(choice(attention(right_calls=right), 1.0, 1.0, 1.0, 1.0)[0]) == 2
    order, lines, reasons = choice(attention(right_calls=right - 1), 1.0, 1.0, 1.0, 1.0)
    assert order == [ProgramParts()]
    assert "its mel differs" in "".join(reasons)
    assert lines[-1]["fastest"] == LATE


@pytest.mark.parametrize(
    ("error", "reasons"),
    [(TypeError, [f"{EARLY}: no such launch attribute"]), (torch.OutOfMemoryError, [])],
)
def test_early_launches_that_fail_are_not_used(
    error: type[Exception], reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastest, "REPEATS", 1)
    order, _, found = choice(attention(error))
    assert order == [ProgramParts()]
    assert found == reasons


def test_without_times_to_compare_with_nothing_is_launched_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "REPEATS", 1)
    late, early, reasons = attention(torch.OutOfMemoryError), attention(), list[str]()
    flow = support.mini_backend().flow
    order = fastest_launch(flow, late, early, 1, None, lambda name, error: reasons.append(name), clock())
    assert order == [late]
    assert reasons == [EARLY]


def test_a_pool_for_fewer_streams_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "REPEATS", 2)
    flow = support.mini_backend().flow
    monkeypatch.setattr(flow, "pool", KvBlockPool(flow.layouts(), flow.config.chunk_tokens, 3))
    seconds, mels = steps_seconds(flow, ProgramParts(), 2, None, clock(3.0, 2.0))
    assert seconds == 2.0
    assert [len(mel) for mel in mels] == [1, 1]
    assert all(mel.isfinite().all() for mel in mels)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """Pretends that there is a GPU of a compute capability, with kernels that are plain operations."""
    modules = {
        "attention_kernel": SimpleNamespace(BlockAttention="late attention", EARLY_ATTENTION=EarlyAttention),
        "layer_kernels": SimpleNamespace(FUSED=PLAIN, FUSED_EARLY=EARLY_KERNELS),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"services.decode.estimators.{name}", module)
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: None)

    def of(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return of


def kernels(flow: Flow) -> ProgramParts:
    return ProgramParts(attention().attention, fused_network(flow.solver.estimator))


def test_gpus_before_hopper_measure_nothing(
    gpu: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu((8, 9))
    monkeypatch.setattr(loading, "fastest_launch", None)
    flow = support.mini_backend().flow
    parts = kernels(flow)
    with capture_logs() as lines:
        assert loading.launched_fastest(flow, parts, 1, CUDA) == [parts]
    assert not lines


def test_from_hopper_on_the_same_kernels_are_tried_with_early_launches(
    gpu: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu((9, 0))
    tried: list[ProgramParts] = []

    def note(flow: Flow, late: ProgramParts, early: ProgramParts, *others: object) -> list[ProgramParts]:
        tried.extend([late, early])
        return tried

    monkeypatch.setattr(loading, "fastest_launch", note)
    flow = support.mini_backend().flow
    parts = kernels(flow)
    assert loading.launched_fastest(flow, parts, 1, CUDA) == tried
    late, early = tried
    assert late is parts
    assert early.attention is EarlyAttention
    networks: Any = (late.network, early.network)
    assert [network.kernels for network in networks] == [PLAIN, EARLY_KERNELS]
    assert loading.launched(ProgramParts(), early=True) == ProgramParts()


def test_kernels_are_launched_one_after_the_other_if_the_measurement_fails(
    gpu: Callable[[tuple[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*parts: object) -> list[ProgramParts]:
        raise RuntimeError("the driver is too old")

    gpu((10, 0))
    monkeypatch.setattr(loading, "fastest_launch", fail)
    flow = support.mini_backend().flow
    parts = kernels(flow)
    with capture_logs() as lines:
        assert loading.launched_fastest(flow, parts, 1, CUDA) == [parts]
    assert [line["reason"] for line in lines] == ["the driver is too old"]


def test_programs_with_early_launches_that_fail_are_replaced_by_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    late, early, recorded = attention(), attention(), []

    def record(flow: Flow, most_streams: int, record: object, *parts: object) -> None:
        recorded.append(parts[0])
        if parts[0] is early.attention:
            raise RuntimeError("its mel differs from the plain one")

    monkeypatch.setattr(loading, "program_parts", lambda flow, **wanted: late)
    monkeypatch.setattr(loading, "launched_fastest", lambda *parts: [early, late])
    monkeypatch.setattr(loading, "use_programs", record)
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: None)
    with capture_logs() as lines:
        loading._record(DecodeSettings(), support.mini_backend().flow, 1, CUDA)
    assert recorded == [early.attention, late.attention]
    (line,) = lines
    assert line["reason"] == "its mel differs from the plain one"
    assert "setting" not in line  # the kernels themselves work
