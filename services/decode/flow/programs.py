"""Programs by the shape of the batch: few shapes, made at first use, those used least recently dropped."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable

import torch

from services.decode.flow.pool import Arena
from services.decode.flow.program import EulerProgram, Network, Record, Shape
from services.decode.flow.solver import Solver

log = logging.getLogger(__name__)

STREAMS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
CHUNKS = (1, 2, 4)
"""New chunks of the longest stream: the hops of `HopPolicy`."""
BLOCKS = (4, 8, 16, 32, 64)
"""Blocks of the longest stream, that is seconds of its audio with the prompt; a longer one runs without a program."""
MOST_KEPT = 64
"""Programs kept: a recorded one takes some megabytes, and the scratch memory that all share."""


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
        most_kept: int = MOST_KEPT,
    ) -> None:
        """`record` makes a program's step fast; without, programs run as ordinary operations."""
        self._parts = (solver, network, arena, frames_per_token)
        self._streams = (*(count for count in STREAMS if count < most_streams), most_streams)
        self._record, self._most_kept = record, most_kept
        self._kept: OrderedDict[Shape, EulerProgram] = OrderedDict()
        self._refused: set[Shape] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def shape(self, streams: int, frames: int, blocks: int) -> Shape | None:
        """The smallest shape such a batch fits into; None when it fits into none."""
        size = self._parts[2].layout.positions
        wanted = ((self._streams, streams), (CHUNKS, -(-frames // size)), (BLOCKS, blocks))
        places = [bisect_left(sizes, one) for sizes, one in wanted]
        if any(place == len(sizes) for place, (sizes, _) in zip(places, wanted, strict=True)):
            return None
        count, chunks, most = (sizes[place] for place, (sizes, _) in zip(places, wanted, strict=True))
        return Shape(count, chunks * size, most)

    def prepare(self) -> None:
        """Makes what most hops run as, so that no listener waits for it: one new chunk, a past of up to 16 s.

        Raises RuntimeError when a step cannot be recorded.
        """
        for blocks in BLOCKS[:3]:
            for streams in self._streams if self._record is not None else self._streams[:1]:
                self.make(Shape(streams, CHUNKS[0] * self._parts[2].layout.positions, blocks))

    def find(self, streams: int, frames: int, blocks: int) -> EulerProgram | None:
        """The program for such a batch, made at first use; None where the batch must go without."""
        shape = self.shape(streams, frames, blocks)
        if shape is None or shape in self._refused:
            return None
        if shape not in self._kept:
            try:
                self.make(shape)
            except RuntimeError as error:
                self._refused.add(shape)
                told = {"shape": str(shape), "reason": str(error).splitlines()[0]}
                log.warning("a step cannot be recorded, batches of its shape run without", extra=told)
                return None
        self._kept.move_to_end(shape)
        return self._kept[shape]

    def make(self, shape: Shape) -> None:
        """Makes a program, recorded if programs are. Raises RuntimeError when it cannot be."""
        program = EulerProgram(*self._parts, shape)
        if self._record is not None:
            program.record(self._record)
        self._kept[shape] = program
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)


class CudaGraphs:
    """Records steps as CUDA graphs, which share one memory pool: a step leaves nothing there that is read later."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Raises RuntimeError when the step does something a graph cannot hold, or memory runs out."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()  # what is set up at the first call must not be recorded
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        return graph.replay
