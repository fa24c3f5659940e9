"""One decode step as a program over tensors of fixed shape: one input per sequence in, one token per sequence out.

A CUDA graph replays kernels with the addresses and shapes they had when it was recorded. So all inputs of a step (ids,
positions, block tables, sampling) are in two tensors that the host fills and copies at once; rows that a step does not
use read and write a spare block. A step ends by updating these tensors for the next step, as if the sampled tokens were
speech. So several steps run without the host, whose work is needed once for all of them. Without CUDA the same program
runs as ordinary operations.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.llm.alignment.aligner import Aligner
from services.llm.alignment.queries import QueryTap
from services.llm.engine.layout import InputCodes
from services.llm.model import columns
from services.llm.model.kernels import StepKernels
from services.llm.model.kv_cache import KVCache, StepBatch
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import SamplingBatch, SamplingRow

MAX_TOP_K = 64
"""Largest top_k that a program supports."""
MAX_STEPS = 16
"""Most steps in one run."""


class ProgramInput(NamedTuple):
    """Input of one sequence, and how its next token is sampled."""

    code: int
    position: int
    blocks: Sequence[int]
    """The sequence's blocks, including those of the following positions."""
    ban: int
    sampling: SamplingRow
    window_size: int
    """Number of ids in `sampling.window` once that many are decoded."""

    @property
    def fits(self) -> bool:
        """Whether its sampling fits the program's fixed shapes."""
        return self.sampling.top_k <= MAX_TOP_K and self.window_size <= columns.WINDOW_SIZE


class Program(abc.ABC):
    """A model's operations over tensors of fixed shape, as a CUDA graph if it is recorded. Used by one thread.

    `size` rows sample; each has a table of at most `width` blocks.
    """

    def __init__(
        self,
        model: SpeechLM,
        cache: KVCache,
        bans: Tensor,
        size: int,
        width: int,
        kernels: StepKernels,
        aligner: Aligner | None = None,
    ) -> None:
        """`bans` [kinds, S] are the masks that a row selects from. The cache's last block is the spare one."""
        self.size = size
        self.queries = torch.zeros((size, 0 if aligner is None else aligner.width), device=bans.device)
        """The queries of each row in the latest run, as `QueryTap.summed` returns them."""
        self._aligner = aligner if aligner is not None and aligner.heads else None
        self._model, self._cache, self._bans, self._kernels = model, cache, bans, kernels
        self._spare = cache.keys.shape[1] - 1
        count = columns.TABLE + width + 1  # the last one stays the spare block, for positions beyond the width
        self._host_integers, self._integers = self._twice((size, count), torch.int64)
        self._host_floats, self._floats = self._twice((size, 3), torch.float32)
        self._tables: list[list[int]] = [[] for _ in range(size)]
        self._drawn = torch.zeros(size, dtype=torch.int64, device=bans.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._filled = 0
        for row in range(size):
            self._clear(row)
        self._copy_inputs()  # `record` runs steps before the first sequence: zeros would be no valid input

    @classmethod
    def device_bytes(cls, size: int, width: int, queries: int) -> int:
        """Bytes of the tensors on the device that a program of this size owns, for queries of that width."""
        columns_bytes = 8 * (columns.TABLE + width + 1) + 4 * 3
        return size * (columns_bytes + 8 + 4 * queries)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors on the device that it owns."""
        return sum(one.nbytes for one in (self._integers, self._floats, self._drawn, self.queries))

    def _twice(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return zeros of that shape on the host, from where they are copied at once, and on the device."""
        device = self._bans.device
        host = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        return host, torch.zeros(shape, dtype=dtype, device=device)  # two on a CPU too: tests then see a missing copy

    def record(self, pool: Any = None) -> Any:
        """Record the CUDA graph on the current device; return its memory pool, which other programs may share.

        Raises RuntimeError if the step cannot be recorded.
        """
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # initialisation of the first call must not be recorded
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._run()
        self._graph = graph
        return graph.pool()

    @property
    def recorded(self) -> bool:
        """Whether it runs as a CUDA graph."""
        return self._graph is not None

    def replay(self) -> None:
        """Run one step with the present tensors; the device may still run it after the return."""
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    @abc.abstractmethod
    def _run(self) -> None:
        """Run one step: read the tensors and fill `_drawn`."""

    def _tap(self) -> QueryTap | None:
        """Return the tap of a forward pass, if its queries are needed."""
        return None if self._aligner is None else self._aligner.tap()

    def _copy_inputs(self) -> None:
        self._integers.copy_(self._host_integers, non_blocking=True)
        self._floats.copy_(self._host_floats, non_blocking=True)

    def _sample(self, hidden: Tensor) -> None:
        """Sample an id per row from float32 hidden states [size, hidden]."""
        numbers, floats = self._integers, self._floats
        sampling = SamplingBatch(
            seed=numbers[:, columns.SEED : columns.SEED + 2],
            position=numbers[:, columns.DRAW],
            temperature=floats[:, columns.TEMPERATURE],
            top_p=floats[:, columns.TOP_P],
            top_k=numbers[:, columns.TOP_K],
            repeats=floats[:, columns.REPEATS],
            window=numbers[:, columns.WINDOW : columns.TABLE],
            max_top_k=MAX_TOP_K,
        )
        logits = self._model.logits(hidden)
        self._drawn.copy_(self._kernels.sample(logits, sampling, self._bans, numbers[:, columns.BAN]))

    def _fill_row(self, row: int, item: ProgramInput) -> None:
        """Write a sequence's sampling and table into the host's tensors."""
        sampling, ring = item.sampling, item.window_size
        numbers = self._host_integers.numpy()[row]
        seed = sampling.seed & 0xFFFFFFFF, sampling.seed >> 32
        numbers[columns.DRAW : columns.WINDOW] = (sampling.position, item.ban, *seed, sampling.top_k, ring)
        # The id of position p is at p modulo the window's size, as in `columns.advance`.
        window = sampling.window
        newest = sampling.position % ring if len(window) == ring else 0
        numbers[columns.WINDOW : columns.WINDOW + len(window)] = (*window[ring - newest :], *window[: ring - newest])
        numbers[columns.WINDOW + len(window) : columns.TABLE] = -1
        self._host_floats.numpy()[row] = sampling.temperature, sampling.top_p, sampling.repeats
        self._set_table(numbers, row, item.blocks)

    def _clear_rows(self, count: int) -> None:
        """Clear the rows from `count` on that hold sequences of an earlier run."""
        for row in range(count, self._filled):
            self._clear(row)
        self._filled = count

    def _set_table(self, numbers: NDArray[np.int64], row: int, blocks: Sequence[int]) -> None:
        if self._tables[row] != blocks:  # rare: a block lasts many steps
            self._tables[row] = list(blocks)
            numbers[columns.TABLE : columns.TABLE + len(blocks)] = blocks
            numbers[columns.TABLE + len(blocks) :] = self._spare

    def _clear(self, row: int) -> None:
        """Let a row feed id 0 into the spare block; its sampled token is never read."""
        numbers = self._host_integers.numpy()[row]
        numbers[: columns.DRAW] = (0, 0, self._spare, 0, self._spare, 1)
        numbers[columns.DRAW : columns.WINDOW] = columns.EMPTY
        numbers[columns.WINDOW : columns.TABLE] = -1
        numbers[columns.TABLE :] = self._spare
        self._host_floats.numpy()[row] = 1.0, 1.0, np.inf
        self._tables[row] = []


class DecodeProgram(Program):
    """Decodes up to `size` sequences of at most `width` blocks each, one input per sequence and step."""

    def __init__(
        self,
        model: SpeechLM,
        cache: KVCache,
        bans: Tensor,
        size: int,
        width: int,
        kernels: StepKernels,
        aligner: Aligner | None = None,
    ) -> None:
        super().__init__(model, cache, bans, size, width, kernels, aligner)
        self.step_queries = self.queries.new_zeros((MAX_STEPS, *self.queries.shape))
        """The queries of each step of the latest run."""
        self._tokens = torch.zeros((MAX_STEPS, size), dtype=torch.int64, device=bans.device)
        self._rows = torch.arange(size, device=bans.device)
        self._codes = InputCodes(model.config)
        self._launched: tuple[int, int] | None = None

    @classmethod
    def device_bytes(cls, size: int, width: int, queries: int) -> int:
        return super().device_bytes(size, width, queries) + MAX_STEPS * size * (8 + 4 * queries) + 8 * size

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(one.nbytes for one in (self._tokens, self.step_queries, self._rows))

    def run(self, inputs: Sequence[ProgramInput], num_steps: int = 1) -> list[list[int]]:
        """`launch`, then `read`."""
        self.launch(inputs, num_steps)
        return self.read()

    def launch(self, inputs: Sequence[ProgramInput], num_steps: int = 1) -> None:
        """Start `num_steps` steps (at most `MAX_STEPS`), feeding each sampled token back. `read` must follow.

        A sequence samples `num_steps` ids even after one that is not speech. Without blocks for them it writes into the
        spare block.
        """
        if self._launched is not None:  # a step failed before it read the ids; the host's tensors may be in use
            self.read()
        self._fill(inputs)
        self._copy_inputs()
        for step in range(num_steps):
            self.replay()
            self._tokens[step].copy_(self._drawn)
            if self._aligner is not None:
                self.step_queries[step].copy_(self.queries)
        self._launched = (len(inputs), num_steps)

    def read(self) -> list[list[int]]:
        """Wait for the launched steps; return [inputs, num_steps] ids."""
        count, num_steps = self._launched or (0, 0)
        self._launched = None
        ids: list[list[int]] = self._tokens[:num_steps, :count].T.tolist()
        return ids

    def _run(self) -> None:
        numbers = self._integers
        batch = StepBatch(
            codes=numbers[:, columns.CODE],
            positions=numbers[:, columns.POSITION],
            blocks=numbers[:, columns.BLOCK],
            offsets=numbers[:, columns.OFFSET],
            opened=numbers[:, columns.OPENED],
            last=self._rows,
            decode_table=numbers[:, columns.TABLE :],
            decode_lengths=numbers[:, columns.LENGTH],
            block_size=self._cache.block_size,
            spare=self._spare,
            tap=self._tap(),
        )
        self._sample(self._model(batch, self._cache, self._kernels))
        if batch.tap is not None:
            self.queries.copy_(batch.tap.summed())
        speech = self._codes.speech(0)
        self._kernels.advance(numbers, self._drawn, self._cache.block_size, self._spare, speech)

    def _fill(self, inputs: Sequence[ProgramInput]) -> None:
        integers, size = self._host_integers.numpy(), self._cache.block_size
        for row, item in enumerate(inputs):
            position = item.position
            block, offset = item.blocks[position // size], position % size
            opened = self._spare if offset else block
            integers[row, : columns.DRAW] = (item.code, position, block, offset, opened, position + 1)
            self._fill_row(row, item)
        self._clear_rows(len(inputs))
