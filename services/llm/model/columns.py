"""The columns of the integers and floats from which a program reads a step's inputs: one row per sequence."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW_SIZE = 32
"""Longest repetition window that a program supports."""

CODE, POSITION, BLOCK, OFFSET, OPENED, LENGTH, DRAW = range(7)
ADVANCED = 7
"""Every step changes the columns before this one."""
BAN, SEED, TOP_K, RING, WINDOW = 7, 8, 10, 11, 12
"""`RING` is the size of the repetition window, `WINDOW` its first id."""
TABLE = WINDOW + WINDOW_SIZE
"""The first of the sequence's blocks; the last column always holds the spare block."""
TEMPERATURE, TOP_P, REPEATS = range(3)
"""Columns of the floats."""
EMPTY = (0, 0, 0, 1, 1)
"""The columns from `BAN` to `RING` of a row without a sequence: its top_k and window size are 1."""


def advance(numbers: Tensor, drawn: Tensor, block_size: int, spare: int, speech_code: int) -> None:
    """Make the sampled ids `drawn` [rows] the inputs of the next step, in place in `numbers` [rows, columns].

    `speech_code` is the input code of speech id 0. The last column of the table is the spare block, for sequences
    without room; their ids are never read.
    """
    draw = numbers[:, DRAW]
    position = (numbers[:, POSITION] + 1).clamp(max=block_size * (numbers.shape[1] - TABLE) - 1)
    block = numbers[:, TABLE:].gather(1, (position // block_size)[:, None])[:, 0]
    offset = position % block_size
    opened = torch.where(offset == 0, block, spare)
    numbers[:, WINDOW:TABLE].scatter_(1, (draw % numbers[:, RING])[:, None], drawn[:, None])
    code = speech_code + drawn
    numbers[:, :ADVANCED] = torch.stack((code, position, block, offset, opened, position + 1, draw + 1), dim=1)
