"""Short computations with given kernels on random or fixed inputs, to compare kernels before they are used."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.llm.model import columns
from services.llm.model.kernels import StepKernels
from services.llm.model.kv_cache import KVCache, SequenceInput, StepBatch, build_batch
from services.llm.model.model import SpeechLM
from services.llm.model.prefill_program import TILE
from services.llm.model.sampling import SamplingBatch

BLOCK_SIZE = 16
ROWS = 64


@torch.inference_mode()
def hidden_states(model: SpeechLM, kernels: StepKernels, *, int8_kv: bool = False) -> Tensor:
    """Return float32 hidden states [1 + TILE, hidden]: of a token fed alone after twenty others, then of a tile."""
    device = model.speech_embedding.weight.device
    cache = KVCache(model.config, 4, BLOCK_SIZE, device, model.dtype, quantized=int8_kv)
    blocks = (2, 0, 1)
    model(build_batch([SequenceInput(tuple(range(20)), 0, blocks)], BLOCK_SIZE, device), cache, kernels)
    alone = model(build_batch([SequenceInput((1,), 20, blocks)], BLOCK_SIZE, device), cache, kernels)
    positions = torch.arange(21, 21 + TILE, device=device)
    table = torch.tensor([blocks], device=device)
    written = table[0][positions // BLOCK_SIZE]
    tile = StepBatch(
        codes=torch.arange(TILE, device=device),
        positions=positions,
        blocks=written,
        offsets=positions % BLOCK_SIZE,
        opened=torch.where(positions % BLOCK_SIZE == 0, written, 3),
        last=positions[-1:] - positions[0],
        decode_table=table[:0],
        decode_lengths=positions[:0],
        block_size=BLOCK_SIZE,
        tile_table=table,
        spare=3,
    )
    return torch.cat((alone, model(tile, cache, kernels)))


@torch.inference_mode()
def drawn_ids(kernels: StepKernels, size: int, device: torch.device) -> Tensor:
    """Return ids [ROWS, 2] of random rows: as drawn from logits [ROWS, size], and as the next step's input code.

    A third of the rows draws again because its id is in the window.
    """
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(ROWS, size, generator=generator)).to(device)
    rows = torch.arange(ROWS, device=device)
    likely = logits.topk(min(size, columns.WINDOW_SIZE)).indices
    window = torch.full((ROWS, columns.WINDOW_SIZE), -1, device=device)
    window[:, : likely.shape[1]] = likely
    batch = SamplingBatch(
        seed=torch.stack((rows * 2**25, rows + 1), dim=1),
        position=7 * rows,
        temperature=0.5 + rows / ROWS,
        top_p=0.3 + 0.7 * rows / ROWS,
        top_k=1 + rows % 25,
        repeats=torch.where(rows % 3 == 0, 1.0, math.inf),
        window=window,
        max_top_k=25,
    )
    bans = torch.zeros((2, size), dtype=torch.bool, device=device)
    bans[1, ::2] = True
    ids = kernels.sample(logits, batch, bans, rows % 2)
    numbers = torch.zeros((ROWS, columns.TABLE + 3), dtype=torch.int64, device=device)
    numbers[:, columns.POSITION] = rows % (3 * BLOCK_SIZE)
    numbers[:, columns.RING] = 10
    numbers[:, columns.TABLE :] = rows[:, None]
    kernels.advance(numbers, ids, BLOCK_SIZE, ROWS, 1000)
    return torch.stack((ids, numbers.sum(dim=1)), dim=1)
