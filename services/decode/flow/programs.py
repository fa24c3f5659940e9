"""Programs by the shape of the batch: all shapes that serving needs are made at the start, none later.

Recording a program takes tens of milliseconds, for which the batch that needs it would wait. So `Shapes` derives all
shapes from the engine's limits, and `Programs.prepare` makes them. A batch that fits no shape runs without a program.
"""

from __future__ import annotations

import contextlib
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from services.decode.flow.block_attention import MakeAttention, PlainAttention
from services.decode.flow.front import Front
from services.decode.flow.front_program import FrontProgram, front_fits, front_room
from services.decode.flow.kv_cache import KvCache
from services.decode.flow.program import EulerProgram, Record, Shape, StepNetwork, scratch
from services.decode.flow.solver import Solver

log = logging.getLogger(__name__)

STREAMS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
CHUNKS = (1, 2, 4, 8)
"""New chunks of the longest stream. The largest hop of `HopPolicy` is 4 chunks; 8 fits chunk plans of a request whose
boundaries are up to 4 s apart."""
LONE_CHUNKS = (*CHUNKS, 16, 32, 64)
"""New chunks of a batch of one stream: the prompt of a new voice, or the history of a stream that lost its state."""
BLOCKS = (4, 8, 16, 32, 64)
"""Blocks of the longest stream, that is, seconds of its audio with the prompt; a longer one runs without a program."""


def device_in_force(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make `device` the thread's current device, which is GPU 0 in every new thread; do nothing on a CPU.

    CUDA streams, graphs and compiled kernels belong to the current device, not to the device of their tensors.
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
        """Return the smallest shape that fits such a batch; None if none does.

        `frames` and `blocks` are the longest stream's new frames, and its blocks including new ones.
        """
        count = _at_least(self.streams, streams)
        chunks = _at_least(LONE_CHUNKS if count == 1 else CHUNKS, -(-frames // self.block_frames))
        most = _at_least(BLOCKS, max(blocks, chunks or 0))
        return Shape(count, chunks * self.block_frames, most) if count and chunks and most else None

    def all(self) -> list[Shape]:
        """All shapes that `fit` can return, the largest first: later recordings reuse the memory of earlier ones."""
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
        network: StepNetwork,
        cache: KvCache,
        frames_per_token: int,
        *,
        most_streams: int,
        record: Record | None = None,
        attention: MakeAttention = PlainAttention,
    ) -> None:
        """`record` makes a program's step fast; without it, programs run as ordinary operations."""
        self.shapes = Shapes(most_streams, cache.layout.positions)
        self.unprepared = 0
        """Number of batches that had no program."""
        self.network, self.attention = network, attention
        self._parts = (solver, network, cache, frames_per_token)
        self._record = record
        self._prepared: dict[Shape, EulerProgram] = {}
        self.fronts: dict[Shape, FrontProgram] = {}
        """Programs of the front, for all shapes or those of moderate size; empty if it runs without."""
        self._reported: set[Shape | None] = set()

    def __len__(self) -> int:
        return len(self._prepared)

    def prepare(self) -> None:
        """Make a program of every shape, so that no batch waits for one; skip shapes that lack memory.

        Raises RuntimeError if a step cannot be recorded, or no program fits into memory.
        """
        began, shapes = time.perf_counter(), self.shapes.all()
        lack = ""
        room = scratch(self._parts[0], shapes)
        for shape in shapes:
            program = EulerProgram(*self._parts, shape, room, self.attention)
            try:
                if self._record is not None:
                    program.record(self._record)
            except torch.OutOfMemoryError as error:
                lack = str(error).splitlines()[0]  # not the error itself, which refers to the step's tensors
            else:
                self._prepared[shape] = program
        if lack:
            if not self._prepared:
                raise RuntimeError(lack)
            details = {"programs": len(shapes) - len(self), "reason": lack}
            log.warning("no memory for some programs; batches of their shapes run without", extra=details)
        log.info("programs prepared", extra={"programs": len(self), "seconds": round(time.perf_counter() - began, 1)})

    def prepare_fronts(self, front: Front, caches: Mapping[str, KvCache], lookahead: int) -> None:
        """Make a program of the front for every shape that is worth one; `caches` are those of its passes.

        Skips shapes that lack memory. Raises RuntimeError, or whatever the recording raises; then there is none.
        """
        began, (solver, _, _, ratio) = time.perf_counter(), self._parts
        shapes = [shape for shape in self.shapes.all() if front_fits(shape, caches, ratio)]
        like = solver.noise(0, 1)
        room, fronts = front_room(shapes, like.shape[1], like.device), dict[Shape, FrontProgram]()
        block_tokens = self.shapes.block_frames // ratio
        front.reserve(block_tokens * max(one.blocks for one in shapes), max(one.frames for one in shapes) // ratio)
        lack = ""
        for shape in shapes:
            program = FrontProgram(front, caches, ratio, lookahead, shape, room)
            try:
                if self._record is not None:
                    program.record(self._record)
            except torch.OutOfMemoryError as error:
                lack = str(error).splitlines()[0]
            else:
                fronts[shape] = program
        if not fronts:
            raise RuntimeError(lack)
        if lack:
            log.warning("no memory for some programs of the front", extra={"reason": lack})
        self.fronts = fronts
        details = {"programs": len(fronts), "seconds": round(time.perf_counter() - began, 1)}
        log.info("programs of the front prepared", extra=details)

    def find_front(self, streams: int, frames: int, blocks: int) -> FrontProgram | None:
        """Return the front's program for such a batch, if there is one."""
        shape = self.shapes.fit(streams, frames, blocks)
        return None if shape is None else self.fronts.get(shape)

    def find(self, streams: int, frames: int, blocks: int) -> EulerProgram | None:
        """Return the program for such a batch; None if there is none, which is counted and logged once per shape.

        Never makes a program: that takes longer than the batch without one.
        """
        shape = self.shapes.fit(streams, frames, blocks)
        program = self._prepared.get(shape) if shape is not None else None
        if program is None:
            self.unprepared += 1
            if shape not in self._reported:
                self._reported.add(shape)
                batch = {"streams": streams, "new_frames": frames, "blocks": blocks, "shape": str(shape)}
                log.warning("no prepared program for this batch; kernels are launched one by one", extra=batch)
        return program


class CudaGraphs:
    """Records steps as CUDA graphs, which share one memory pool: no step reads what another one left there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._latest: torch.cuda.CUDAGraph | None = None
        """Kept, because PyTorch refuses to record into a pool whose graphs are all gone, as after a measurement."""
        with device_in_force(device):
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record `run`. Raises RuntimeError if a graph cannot hold one of its operations, or memory runs out."""
        with device_in_force(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                run()  # the setup of the first call must not be recorded
                graph = self._captured(run)
            torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> None:
            with device_in_force(self._device):
                graph.replay()

        return replay

    def _captured(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Capture without `torch.cuda.graph`, which empties the allocator's cache before every recording.

        The eager parts would then allocate their memory again; `use_programs` empties it once for all recordings.
        """
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            run()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the error of the step is more specific
                graph.capture_end()
            with contextlib.suppress(RuntimeError, AttributeError):
                # Up to torch 2.11 `capture_end` leaves this out if it raises; `empty_cache` would fail from then on.
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            raise
        else:
            graph.capture_end()
        finally:
            self._latest = graph
        return graph
