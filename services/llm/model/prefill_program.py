"""Several inputs of one or more sequences as a program over tensors of fixed shape; see `decode_program`.

The inputs are padded: each sequence to whole tiles of `TILE` tokens, and all of them to the program's number of tokens.
So one program serves any mixture of prompts, text blocks and recomputations that it has room for, at any position.
Padding reads and writes the spare block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from services.llm.alignment.aligner import Aligner
from services.llm.model import columns
from services.llm.model.decode_program import Program, ProgramInput
from services.llm.model.kernels import StepKernels
from services.llm.model.kv_cache import KVCache, StepBatch
from services.llm.model.model import SpeechLM

TILE = 16
"""Tokens of one sequence that attention handles together."""
_CODE, _POSITION, _BLOCK, _OFFSET, _OPENED = range(5)


class PrefillInput(NamedTuple):
    """Inputs of one sequence, and how the token after the last of them is sampled."""

    codes: Sequence[int]
    row: ProgramInput
    """`row.position` is the position of the first code."""

    @property
    def tiles(self) -> int:
        return -(-len(self.codes) // TILE)


class PrefillProgram(Program):
    """Feeds up to `tokens` inputs of sequences of at most `width` blocks each, padding included."""

    def __init__(
        self,
        model: SpeechLM,
        cache: KVCache,
        bans: Tensor,
        tokens: int,
        width: int,
        kernels: StepKernels,
        aligner: Aligner | None = None,
    ) -> None:
        """`tokens` is a multiple of `TILE`; a row of the program is a tile."""
        super().__init__(model, cache, bans, tokens // TILE, width, kernels, aligner)
        self._host_tokens, self._device_tokens = self._twice((5, tokens), torch.int64)
        self._filled = 0
        self._decoding = torch.zeros((0, width), dtype=torch.int64, device=bans.device)
        self._clear_tokens()
        self._copy_tokens()

    @classmethod
    def device_bytes(cls, size: int, width: int, queries: int) -> int:
        """Like `Program.device_bytes`; `size` counts tiles."""
        return super().device_bytes(size, width, queries) + 8 * 5 * TILE * size

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._device_tokens.nbytes

    def run(self, inputs: Sequence[PrefillInput]) -> tuple[list[int], list[int]]:
        """Feed the inputs; return an id per sequence, and its row. They must have `size` tiles at most."""
        firsts = self._fill(inputs)
        self._copy_inputs()
        self._copy_tokens()
        self.replay()
        drawn = self._drawn.tolist()
        return [drawn[row] for row in firsts], firsts

    def _run(self) -> None:
        tokens, numbers = self._device_tokens, self._integers
        batch = StepBatch(
            codes=tokens[_CODE],
            positions=tokens[_POSITION],
            blocks=tokens[_BLOCK],
            offsets=tokens[_OFFSET],
            opened=tokens[_OPENED],
            last=numbers[:, columns.CODE],
            decode_table=self._decoding,
            decode_lengths=self._decoding[:, 0],
            block_size=self._cache.block_size,
            tile_table=numbers[:, columns.TABLE :],
            spare=self._spare,
            tap=self._tap(),
        )
        hidden = self._model(batch, self._cache, self._kernels)
        self._sample(hidden.index_select(0, batch.last))
        if batch.tap is not None:
            self.queries.copy_(batch.tap.summed())

    def _fill(self, inputs: Sequence[PrefillInput]) -> list[int]:
        """Return the first row of each sequence, which samples its token."""
        firsts, row = [], 0
        self._clear_tokens()
        tokens, numbers = self._host_tokens.numpy(), self._host_integers.numpy()
        size = self._cache.block_size
        for item in inputs:
            firsts.append(row)
            begin, start, count = TILE * row, item.row.position, len(item.codes)
            blocks = [item.row.blocks[p // size] for p in range(start, start + count)]
            offsets = [p % size for p in range(start, start + count)]
            opened = [self._spare if offset else block for block, offset in zip(blocks, offsets, strict=True)]
            tokens[:, begin : begin + count] = (item.codes, range(start, start + count), blocks, offsets, opened)
            for tile in range(row, row + item.tiles):
                self._fill_row(tile, item.row)
                numbers[tile, columns.CODE] = begin + count - 1
            row += item.tiles
        for unused in range(row, self._filled):
            self._clear(unused)
        self._filled = row
        return firsts

    def _clear_tokens(self) -> None:
        self._host_tokens.numpy()[:] = [[0], [0], [self._spare], [0], [self._spare]]

    def _copy_tokens(self) -> None:
        self._device_tokens.copy_(self._host_tokens, non_blocking=True)
