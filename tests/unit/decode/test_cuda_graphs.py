"""Recording programs as CUDA graphs, with a stand-in of CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from services.decode.engine.torch_backend import TorchBackend
from services.decode.estimators.compiled import use_programs
from services.decode.flow.programs import CudaGraphs, Programs
from tests.unit.decode import decode_support as support


class Cuda:
    """A replacement of `torch.cuda` that records the device of every call; the current one is 0 at first.

    Like PyTorch, it refuses to record into a memory pool whose graphs are all gone, and to empty the cache while a pool
    is open, as it stays if the end of a recording fails.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.device, self.capturing = 0, False
        self.happened: list[tuple[str, int]] = []
        self.graphs: dict[object, int] = {}
        """The number of graphs of each memory pool."""
        self.open: set[object] = set()
        """The pools of recordings that have not ended."""
        self.invalid = False
        """Whether recordings end with an error."""
        cuda = self

        class Graph:
            def capture_begin(self, pool: object, capture_error_mode: str) -> None:
                cuda.note("capture")
                if cuda.graphs.get(pool) == 0:
                    raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
                self.pool = pool
                cuda.graphs[pool] = cuda.graphs.get(pool, 0) + 1
                cuda.open.add(pool)

            def capture_end(self) -> None:
                cuda.note("captured")
                if cuda.invalid:
                    raise RuntimeError("operation failed due to a previous error during capture")
                cuda.close(0, self.pool)

            def __del__(self) -> None:
                if hasattr(self, "pool"):
                    cuda.graphs[self.pool] -= 1

            def replay(self) -> None:
                cuda.note("replay")

        class Streams:
            def __init__(self) -> None:
                cuda.note("stream")

            def wait_stream(self, other: object) -> None:
                cuda.note("wait")

        for name, stand_in in (("CUDAGraph", Graph), ("Stream", Streams), ("current_stream", Streams)):
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch.cuda, "graph_pool_handle", object)
        patch.setattr(torch.cuda, "synchronize", lambda: self.note("synchronize"))
        patch.setattr(torch.cuda, "empty_cache", self.empty)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self.close, raising=False)
        patch.setattr(torch.cuda, "device", self.use)
        patch.setattr(torch.cuda, "stream", self.on)

    def close(self, device: int, pool: object) -> None:
        if pool not in self.open:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.open.remove(pool)

    def empty(self) -> None:
        self.note("empty_cache")
        if self.open:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def note(self, what: str) -> None:
        self.happened.append((what, self.device))

    @contextmanager
    def use(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device.index
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def on(self, stream: object) -> Iterator[None]:
        yield


def test_graphs_are_recorded_and_replayed_on_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda:1"))
    replays = [graphs(lambda: cuda.note("run")) for _ in range(3)]
    for replay in replays:
        replay()
    assert {device for _, device in cuda.happened} == {1}
    assert cuda.device == 0
    names = [what for what, _ in cuda.happened]
    assert [names.count(what) for what in ("run", "capture", "captured", "replay")] == [6, 3, 3, 3]
    assert "empty_cache" not in names  # the eager parts would allocate all their memory again

    def failing() -> None:
        cuda.note("run")
        if cuda.happened[-2][0] == "capture":
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        graphs(failing)
    assert cuda.happened[-1] == ("captured", 1)  # an open capture would break all later operations


def test_graphs_are_recorded_after_those_of_a_measurement_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda:1"))
    graphs(lambda: None)
    graphs(lambda: None)()
    assert list(cuda.graphs.values()) == [1]  # the others are gone


def test_smaller_programs_are_recorded_after_the_largest_found_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda:1"))

    def large() -> None:
        if cuda.happened[-1][0] == "capture":
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        graphs(large)
    graphs(lambda: None)()
    assert cuda.happened[-1] == ("replay", 1)


def test_others_are_recorded_after_a_recording_with_an_operation_that_it_cannot_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)

    def refused() -> None:
        if cuda.happened[-1][0] == "capture":
            cuda.invalid = True
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs(torch.device("cuda:1"))(refused)
    cuda.invalid = False
    torch.cuda.empty_cache()
    CudaGraphs(torch.device("cuda:1"))(lambda: None)()
    assert cuda.happened[-1] == ("replay", 1)


def test_programs_are_prepared_with_their_device_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    made = TorchBackend(support.mini(), state_bytes=8 * support.mini_backend().flow.pool.block_bytes)
    cuda = Cuda(monkeypatch)

    def record(run: Callable[[], None]) -> Callable[[], None]:
        cuda.note("record")
        return run

    monkeypatch.setattr(Programs, "prepare", lambda self: record(lambda: None))
    monkeypatch.setattr(Programs, "prepare_fronts", lambda self, *parts: record(lambda: None))
    use_programs(made.flow, 1, record)
    assert cuda.happened == [
        ("empty_cache", 0),
        ("record", 0),
        ("record", 0),
        ("empty_cache", 0),
    ]  # a CPU has no current device
    cuda.happened.clear()
    monkeypatch.setattr("services.decode.estimators.compiled.probe_mel", lambda flow: torch.zeros(1))
    made.flow.device = torch.device("cuda:1")
    use_programs(made.flow, 1, record)
    assert cuda.happened == [("empty_cache", 1), ("record", 1), ("record", 1), ("empty_cache", 1)]
