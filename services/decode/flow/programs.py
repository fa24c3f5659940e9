"""Programs by the shape of the batch: every shape that serving asks for is made at the start, none later.

Recording a program takes tens of milliseconds, and the batch that needs it would wait. So `Shapes` is plain arithmetic
over the engine's limits, and `Programs.prepare` makes all of them. A batch that fits no shape runs without a program.
"""

from __future__ import annotations

import contextlib
import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch

from services.decode.flow.pool import Arena
from services.decode.flow.program import EulerProgram, Network, Record, Shape, scratch
from services.decode.flow.solver import Solver

log = logging.getLogger(__name__)

STREAMS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
CHUNKS = (1, 2, 4, 8)
"""New chunks of the longest stream. The largest hop of `HopPolicy` is 4 chunks; 8 has room for chunk plans of a request
whose borders are up to 4 s apart."""
LONE_CHUNKS = (*CHUNKS, 16, 32, 64)
"""New chunks of a batch of one stream: the prompt of a new voice, or the history of a stream that lost its state."""
BLOCKS = (4, 8, 16, 32, 64)
"""Blocks of the longest stream, that is seconds of its audio with the prompt; a longer one runs without a program."""


def device_in_force(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes `device` the thread's current device, which is GPU 0 in every new thread; does nothing on a CPU.

    CUDA streams, graphs and compiled kernels belong to the current device, wherever their tensors are.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@dataclass(frozen=True)
class Shapes:
    """The shapes of batches of at most `most_streams` streams, with blocks of `block_frames` frames."""

    most_streams: int
    block_frames: int

    @property
    def streams(self) -> tuple[int, ...]:
        return (*(count for count in STREAMS if count < self.most_streams), self.most_streams)

    def fit(self, streams: int, frames: int, blocks: int) -> Shape | None:
        """The smallest shape such a batch fits into; None when it fits into none.

        `frames` and `blocks` are the longest stream's new frames, and its blocks with the new ones.
        """
        count = _at_least(self.streams, streams)
        chunks = _at_least(LONE_CHUNKS if count == 1 else CHUNKS, -(-frames // self.block_frames))
        most = _at_least(BLOCKS, max(blocks, chunks or 0))
        return Shape(count, chunks * self.block_frames, most) if count and chunks and most else None

    def all(self) -> list[Shape]:
        """Every shape that `fit` returns, the largest first: later recordings reuse the memory of earlier ones."""
        shapes = [
            Shape(streams, chunks * self.block_frames, blocks)
            for streams in self.streams
            for chunks in (LONE_CHUNKS if streams == 1 else CHUNKS)
            for blocks in BLOCKS
            if blocks >= chunks
        ]
        return sorted(shapes, key=lambda shape: (shape.streams * shape.frames * shape.blocks, shape.frames))[::-1]


def _at_least(sizes: tuple[int, ...], wanted: int) -> int | None:
    place = bisect_left(sizes, wanted)
    return sizes[place] if place < len(sizes) else None


class Programs:
    """The programs of one solver. Used by one thread at a time."""

    def __init__(
        self,
        solver: Solver,
        network: Network,
        arena: Arena,
        frames_per_token: int,
        *,
        most_streams: int,
        record: Record | None = None,
    ) -> None:
        """`record` makes a program's step fast; without, programs run as ordinary operations."""
        self.shapes = Shapes(most_streams, arena.layout.positions)
        self.unprepared = 0
        """Batches so far that had no program."""
        self._parts = (solver, network, arena, frames_per_token)
        self._record = record
        self._prepared: dict[Shape, EulerProgram] = {}
        self._reported: set[Shape | None] = set()

    def __len__(self) -> int:
        return len(self._prepared)

    def prepare(self) -> None:
        """Makes a program of every shape, so that no batch waits for one. Shapes that find no memory are left out.

        Raises RuntimeError when a step cannot be recorded, or memory is too small for any.
        """
        began, shapes = time.perf_counter(), self.shapes.all()
        lack = ""
        room = scratch(self._parts[0], shapes)
        for shape in shapes:
            program = EulerProgram(*self._parts, shape, room)
            try:
                if self._record is not None:
                    program.record(self._record)
            except torch.OutOfMemoryError as error:
                lack = str(error).splitlines()[0]  # not the error itself, which keeps the step's tensors
            else:
                self._prepared[shape] = program
        if lack:
            if not self._prepared:
                raise RuntimeError(lack)
            told = {"programs": len(shapes) - len(self), "reason": lack}
            log.warning("no memory for some programs, batches of their shapes run without", extra=told)
        log.info("prepared", extra={"programs": len(self), "seconds": round(time.perf_counter() - began, 1)})

    def find(self, streams: int, frames: int, blocks: int) -> EulerProgram | None:
        """The program for such a batch; None where the batch must go without. Counts these, and logs each shape once.

        Never makes a program: that would take longer than the batch takes without one.
        """
        shape = self.shapes.fit(streams, frames, blocks)
        program = self._prepared.get(shape) if shape is not None else None
        if program is None:
            self.unprepared += 1
            if shape not in self._reported:
                self._reported.add(shape)
                batch = {"streams": streams, "new_frames": frames, "blocks": blocks, "shape": str(shape)}
                log.warning("a batch has no prepared program, its kernels are launched one by one", extra=batch)
        return program


class CudaGraphs:
    """Records steps as CUDA graphs, which share one memory pool: a step leaves nothing there that is read later."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        with device_in_force(device):
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Raises RuntimeError when the step does something a graph cannot hold, or memory runs out."""
        with device_in_force(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                run()  # what is set up at the first call must not be recorded
                graph = self._captured(run)
            torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> None:
            with device_in_force(self._device):
                graph.replay()

        return replay

    def _captured(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Captures without `torch.cuda.graph`, which empties the allocator's cache before every recording.

        The eager parts would then allocate all their memory again; `use_programs` empties it once for all recordings.
        """
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            run()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the error of the step says more
                graph.capture_end()
            raise
        graph.capture_end()
        return graph
