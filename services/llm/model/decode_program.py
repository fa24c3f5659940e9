"""One decode step as a program over tensors of fixed shape: one input per sequence in, one token per sequence out.

A CUDA graph replays kernels with the addresses and shapes they had when it was recorded. So all inputs of a step (ids,
positions, block tables, sampling) are in two tensors that the host fills and copies at once; rows that a step does not
use read and write a spare block. A step ends by updating these tensors for the next step, as if the sampled tokens were
speech. So several steps run without the host, whose work is needed once for all of them. After them the updated tensors
are copied back, and the next run of a sequence, which keeps its row, starts from them. Without CUDA the same program
runs as ordinary operations.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Sequence
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
_STATE = [columns.CODE, columns.POSITION, columns.DRAW]
"""Columns whose values are those of `DecodeInputs`."""


class ProgramInput(NamedTuple):
    """Where the input of one sequence is, and how its next token is sampled."""

    position: int
    blocks: Sequence[int]
    """The sequence's blocks, including those of the following positions."""
    ban: int
    sampling: SamplingRow
    window_size: int
    """Number of ids in `sampling.window` once that many are decoded."""


class DecodeInputs(NamedTuple):
    """Inputs of a run of a `DecodeProgram`: one entry of each list per sequence."""

    sequences: Sequence[Hashable]
    """Each is itself from run to run; its sampling options never change."""
    codes: Sequence[int]
    positions: Sequence[int]
    draws: Sequence[int]
    """The number of ids that each has decoded."""
    bans: Sequence[int]
    blocks: Sequence[Sequence[int]]
    complete: Callable[[int], ProgramInput]
    """Return how an entry is sampled. Called for those that do not continue the latest run, which are few."""


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
        self._idle = (0, 0, self._spare, 0, self._spare, 1, 0)
        """The columns of a row without a sequence that every step changes."""
        count = columns.TABLE + width + 1  # the last one stays the spare block, for positions beyond the width
        self._host_integers, self._integers = self._twice((size, count), torch.int64)
        self._host_floats, self._floats = self._twice((size, 3), torch.float32)
        self._tables: list[list[int]] = [[] for _ in range(size)]
        self._drawn = torch.zeros(size, dtype=torch.int64, device=bans.device)
        self._graph: torch.cuda.CUDAGraph | None = None
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

    def _set_table(self, numbers: NDArray[np.int64], row: int, blocks: Sequence[int]) -> None:
        if self._tables[row] != blocks:  # rare: a block lasts many steps
            self._tables[row] = list(blocks)
            numbers[columns.TABLE : columns.TABLE + len(blocks)] = blocks
            numbers[columns.TABLE + len(blocks) :] = self._spare

    def _clear(self, row: int) -> None:
        """Let a row feed id 0 into the spare block; its sampled token is never read."""
        numbers = self._host_integers.numpy()[row]
        numbers[: columns.ADVANCED] = self._idle
        numbers[columns.BAN : columns.WINDOW] = columns.EMPTY
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
        self._all_rows = torch.arange(size, device=bans.device)
        self._codes = InputCodes(model.config)
        self._row_of: dict[Hashable, int] = {}
        """The row of each sequence of the latest run; sequences that have ended stay here until the next run."""
        self._free = list(reversed(range(size)))
        """The other rows."""
        self._rows: list[int] = []
        """The rows of the latest run in the order of its inputs."""
        self._forgotten = False
        self._launched: int | None = None

    @classmethod
    def device_bytes(cls, size: int, width: int, queries: int) -> int:
        return super().device_bytes(size, width, queries) + MAX_STEPS * size * (8 + 4 * queries) + 8 * size

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(one.nbytes for one in (self._tokens, self.step_queries, self._all_rows))

    def run(self, inputs: DecodeInputs, num_steps: int = 1) -> list[list[int]]:
        """`launch`, then `read`."""
        self.launch(inputs, num_steps)
        return self.read()

    def launch(self, inputs: DecodeInputs, num_steps: int = 1) -> None:
        """Start `num_steps` steps (at most `MAX_STEPS`), feeding each sampled token back. `read` must follow.

        A sequence samples `num_steps` ids even after one that is not speech. Without blocks for them it writes into the
        spare block.
        """
        if self._launched is not None:  # a step failed before it read the ids; the host's tensors may be in use
            self.read()
        new = self._place(inputs.sequences)
        self._fill(inputs, new)
        self._copy_inputs()
        for step in range(num_steps):
            self.replay()
            self._tokens[step].copy_(self._drawn)
            if self._aligner is not None:
                self.step_queries[step].copy_(self.queries)
        self._host_integers.copy_(self._integers, non_blocking=True)
        self._launched = num_steps

    def read(self) -> list[list[int]]:
        """Wait for the launched steps; return [inputs, num_steps] ids."""
        num_steps, self._launched = self._launched or 0, None
        ids: list[list[int]] = self._tokens[:num_steps].T.tolist()
        return [ids[row] for row in self._rows]

    def run_queries(self) -> Tensor:
        """Return the queries of the latest run, [steps or more, inputs, width]."""
        return self.step_queries if self._aligner is None else self.step_queries[:, self._rows]

    def forget(self) -> None:
        """Let no sequence continue the latest run: its ids were not used, so others may follow."""
        self._forgotten = True

    def _run(self) -> None:
        numbers = self._integers
        batch = StepBatch(
            codes=numbers[:, columns.CODE],
            positions=numbers[:, columns.POSITION],
            blocks=numbers[:, columns.BLOCK],
            offsets=numbers[:, columns.OFFSET],
            opened=numbers[:, columns.OPENED],
            last=self._all_rows,
            decode_table=numbers[:, columns.TABLE :],
            decode_lengths=numbers[:, columns.LENGTH],
            block_size=self._cache.block_size,
            spare=self._spare,
            tap=self._tap(),
        )
        self._sample(self._model(batch, self._cache, self._kernels))
        if batch.tap is not None:
            self.queries.copy_(batch.tap.summed())
        self.advance()

    def advance(self) -> None:
        """Make the sampled ids the inputs of the next step, which ends a step."""
        self._kernels.advance(
            self._integers, self._drawn, self._cache.block_size, self._spare, self._codes.first_speech
        )

    def _place(self, sequences: Sequence[Hashable]) -> list[int]:
        """Give each sequence its row of the latest run or a free one; return the indices of those without one before.

        So the rows of most sequences need no work, whichever others join, leave or change places.
        """
        present = set(sequences)
        for left in [sequence for sequence in self._row_of if sequence not in present]:
            row = self._row_of.pop(left)
            self._clear(row)
            self._free.append(row)
        new = [i for i, sequence in enumerate(sequences) if sequence not in self._row_of]
        for i in new:
            self._row_of[sequences[i]] = self._free.pop()
        self._rows = [self._row_of[sequence] for sequence in sequences]
        return new

    def _fill(self, inputs: DecodeInputs, new: Sequence[int]) -> None:
        """Write the inputs into the host's tensors, which hold what the latest run left.

        A sequence that has the same state there as here continues that run: its sampling options are the same, and its
        window holds the ids that it has decoded. So its row needs a look at its blocks and a new ban at most.
        """
        numbers, rows, size = self._host_integers.numpy(), np.array(self._rows), self._cache.block_size
        # Free rows would go on where the latest run left them, and read ever more positions.
        numbers[self._free, : columns.ADVANCED] = self._idle
        state = np.array((inputs.codes, inputs.positions, inputs.draws, inputs.bans)).T
        changed = (numbers[rows[:, None], _STATE] != state[:, : len(_STATE)]).any(axis=1) | self._forgotten
        changed[new] = True
        self._forgotten = False
        for i in changed.nonzero()[0].tolist():
            self._fill_row(self._rows[i], inputs.complete(i))
        tables = self._tables
        for i in [i for i, row in enumerate(self._rows) if tables[row] != inputs.blocks[i]]:
            self._set_table(numbers[self._rows[i]], self._rows[i], inputs.blocks[i])
        codes, positions, draws, bans = state.T
        offsets = positions % size
        blocks = numbers[rows, columns.TABLE + positions // size]
        opened = np.where(offsets == 0, blocks, self._spare)
        # In the order of the columns.
        numbers[rows, : columns.BAN + 1] = np.array(
            (codes, positions, blocks, offsets, opened, positions + 1, draws, bans)
        ).T
