"""One decode step as a program over tensors of fixed shape: one input per sequence in, one token per sequence out.

A CUDA graph replays kernels with the addresses and shapes they had when it was recorded. So all inputs of a step (ids,
positions, block tables, sampling) are in two tensors that the host fills and copies at once; rows that a step does not
use read and write a spare block. A step ends by updating these tensors for the next step, as if the sampled tokens were
speech. So several steps run without the host, whose work is needed once for all of them. Without CUDA the same program
runs as ordinary operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.llm.engine.layout import InputCodes
from services.llm.model.kv_cache import KVCache, StepBatch, valid_positions
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import CounterDraw, SamplingBatch, SamplingRow, sample

MAX_TOP_K = 64
"""Largest top_k that a program supports."""
WINDOW = 32
"""Longest repetition window that a program supports."""
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
        return self.sampling.top_k <= MAX_TOP_K and self.window_size <= WINDOW


_CODE, _POSITION, _BLOCK, _OFFSET, _OPENED, _LENGTH, _DRAW = range(7)
_ADVANCED = 7
"""Every step changes the columns before this one."""
_BAN, _SEED, _TOP_K, _RING, _WINDOW = 7, 8, 10, 11, 12
_TABLE = _WINDOW + WINDOW
_TEMPERATURE, _TOP_P, _REPEATS = range(3)


class DecodeProgram:
    """Decodes up to `size` sequences of at most `width` blocks each. Used by one thread at a time."""

    def __init__(self, model: SpeechLM, cache: KVCache, bans: Tensor, size: int, width: int) -> None:
        """`bans` [kinds, S] are the masks that a row selects from. The cache's last block is the spare one."""
        device = bans.device
        self.size = size
        self._model, self._cache, self._bans = model, cache, bans
        self._spare = cache.keys.shape[1] - 1
        pinned = device.type == "cuda"
        columns = _TABLE + width + 1  # the last one stays the spare block, for positions beyond the width
        self._host_integers = torch.zeros((size, columns), dtype=torch.int64, pin_memory=pinned)
        self._host_floats = torch.zeros((size, 3), pin_memory=pinned)
        self._integers = self._host_integers.to(device)
        self._floats = self._host_floats.to(device)
        self._tables: list[list[int]] = [[] for _ in range(size)]
        self._drawn = torch.zeros(size, dtype=torch.int64, device=device)
        self._tokens = torch.zeros((MAX_STEPS, size), dtype=torch.int64, device=device)
        self._codes = InputCodes(model.config)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._filled = 0
        for row in range(size):
            self._clear(row)

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

    def run(self, inputs: Sequence[ProgramInput], num_steps: int = 1) -> list[list[int]]:
        """Run `num_steps` steps (at most `MAX_STEPS`), feeding each sampled token back; return [inputs, num_steps] ids.

        A sequence samples `num_steps` ids even after one that is not speech. Without blocks for them it writes into the
        spare block.
        """
        self._fill(inputs)
        self._integers.copy_(self._host_integers, non_blocking=True)
        self._floats.copy_(self._host_floats, non_blocking=True)
        for step in range(num_steps):
            self.replay()
            self._tokens[step].copy_(self._drawn)
        ids: list[list[int]] = self._tokens[:num_steps, : len(inputs)].T.tolist()
        return ids

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

    def _run(self) -> None:
        numbers, floats, size = self._integers, self._floats, self._cache.block_size
        table, lengths = numbers[:, _TABLE:], numbers[:, _LENGTH]
        batch = StepBatch(
            codes=numbers[:, _CODE],
            positions=numbers[:, _POSITION],
            blocks=numbers[:, _BLOCK],
            offsets=numbers[:, _OFFSET],
            opened=numbers[:, _OPENED],
            last=torch.arange(self.size, device=numbers.device),
            decode_table=table,
            decode_lengths=lengths,
            decode_mask=valid_positions(table, lengths, size)[:, None, None, :],
            segments=(),
        )
        sampling = SamplingBatch(
            seed=numbers[:, _SEED : _SEED + 2],
            position=numbers[:, _DRAW],
            temperature=floats[:, _TEMPERATURE],
            top_p=floats[:, _TOP_P],
            top_k=numbers[:, _TOP_K],
            repeats=floats[:, _REPEATS],
            window=numbers[:, _WINDOW:_TABLE],
            max_top_k=MAX_TOP_K,
        )
        logits = self._model.logits(self._model(batch, self._cache))
        self._drawn.copy_(sample(logits, sampling, self._bans[numbers[:, _BAN]], CounterDraw(sampling)))
        self._advance()

    def _advance(self) -> None:
        """Make the sampled ids the next step's inputs."""
        numbers, drawn, size = self._integers, self._drawn, self._cache.block_size
        draw = numbers[:, _DRAW]
        # The table's last column is the spare block, for sequences without room; their ids are never read.
        position = (numbers[:, _POSITION] + 1).clamp(max=size * (numbers.shape[1] - _TABLE) - 1)
        block = numbers[:, _TABLE:].gather(1, (position // size)[:, None])[:, 0]
        offset = position % size
        opened = torch.where(offset == 0, block, self._spare)
        numbers[:, _WINDOW:_TABLE].scatter_(1, (draw % numbers[:, _RING])[:, None], drawn[:, None])
        code = self._codes.speech(0) + drawn
        numbers[:, :_ADVANCED] = torch.stack((code, position, block, offset, opened, position + 1, draw + 1), dim=1)

    def _fill(self, inputs: Sequence[ProgramInput]) -> None:
        integers, floats = self._host_integers.numpy(), self._host_floats.numpy()
        size = self._cache.block_size
        for row, (code, position, blocks, ban, sampling, ring) in enumerate(inputs):
            block, offset = blocks[position // size], position % size
            opened = self._spare if offset else block
            seed = sampling.seed & 0xFFFFFFFF, sampling.seed >> 32
            numbers = integers[row]
            numbers[:_WINDOW] = (
                *(code, position, block, offset, opened, position + 1, sampling.position),
                *(ban, *seed, sampling.top_k, ring),
            )
            # The id of position p is at p modulo the window's size, as in `_advance`.
            window = sampling.window
            newest = sampling.position % ring if len(window) == ring else 0
            numbers[_WINDOW : _WINDOW + len(window)] = (*window[ring - newest :], *window[: ring - newest])
            numbers[_WINDOW + len(window) : _TABLE] = -1
            floats[row] = sampling.temperature, sampling.top_p, sampling.repeats
            self._set_table(numbers, row, blocks)
        for row in range(len(inputs), self._filled):
            self._clear(row)
        self._filled = len(inputs)

    def _set_table(self, numbers: NDArray[np.int64], row: int, blocks: Sequence[int]) -> None:
        if self._tables[row] != blocks:  # rare: a block lasts many steps
            self._tables[row] = list(blocks)
            numbers[_TABLE : _TABLE + len(blocks)] = blocks
            numbers[_TABLE + len(blocks) :] = self._spare

    def _clear(self, row: int) -> None:
        """Let a row feed id 0 into the spare block; its sampled token is never read."""
        numbers = self._host_integers.numpy()[row]
        numbers[:_WINDOW] = (0, 0, self._spare, 0, self._spare, 1, 0, 0, 0, 0, 1, 1)
        numbers[_WINDOW:_TABLE] = -1
        numbers[_TABLE:] = self._spare
        self._host_floats.numpy()[row] = 1.0, 1.0, np.inf
        self._tables[row] = []
