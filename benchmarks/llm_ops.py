"""Counts the kernels and bytes of the llm's step on a CPU, with each Triton kernel as one; see `op_count`."""

from __future__ import annotations

from dataclasses import fields
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.op_count import OpCounter, tensor_bytes
from services.llm.model.decode_program import DecodeInputs, DecodeProgram, ProgramInput
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.kv_cache import KVCache, StepBatch
from services.llm.model.model import SpeechLM
from services.llm.model.sampling import SamplingBatch, SamplingRow

LAUNCHES = {
    "embed": 1,
    "open": 1,
    "add_norm": 1,
    "rotate_and_store": 1,
    "attend": 2,
    "attend_tiles": 1,
    "silu_up": 1,
    "sample": 3,
    "advance": 1,
}
"""Kernels of each part on a GPU. Attention of small batches is split: a second kernel merges."""
PART = 128
"""Positions of one part of split attention."""
MULTIPROCESSORS = 132
"""Of an H100. With fewer pairs of a row and a K/V head, attention is split."""
LAUNCH_US = (2.0, 2.5)
"""Least and most microseconds from kernel to kernel of a CUDA graph, as seen on an H100."""
BANDWIDTH = 3.0e12
"""Bytes per second of a copy, as seen on an H100."""
CONTEXT = 350
"""Positions that each counted sequence attends to."""
BLOCK_SIZE = 16


def counted_kernels(counter: OpCounter, *, split: bool = True) -> StepKernels:
    """Return the plain kernels, counted as the Triton kernels that replace them on a GPU."""
    launches = LAUNCHES if split else LAUNCHES | {"attend": 1}
    parts = {
        field.name: counter.part(
            field.name, launches[field.name], globals()[f"_{field.name}"], getattr(PLAIN, field.name)
        )
        for field in fields(StepKernels)
    }
    return StepKernels(**parts)


def count_step(model: SpeechLM, batch: int, *, int8_kv: bool = False, positions: int = CONTEXT) -> OpCounter:
    """Count one step of `batch` sequences that attend to `positions` each. The model is on the CPU.

    What the host does between the steps is not counted as kernels, but its waits for the device are.
    """
    config, device = model.config, torch.device("cpu")
    counter, width = OpCounter(), -(-positions // BLOCK_SIZE)
    cache = KVCache(config, batch * width + 1, BLOCK_SIZE, device, model.dtype, quantized=int8_kv)
    bans = torch.zeros((1, model.speech_embedding.num_embeddings), dtype=torch.bool)
    kernels = counted_kernels(counter, split=batch * config.num_kv_heads < MULTIPROCESSORS)
    program = DecodeProgram(model, cache, bans, batch, width, kernels)
    sampling = SamplingRow(0, positions, 1.0, 0.8, 25, 1.0, range(10))
    blocks = [range(row * width, (row + 1) * width) for row in range(batch)]
    code, position = config.text_vocab + 5, positions - 1
    inputs = DecodeInputs(
        sequences=range(batch),
        codes=[code] * batch,
        positions=[position] * batch,
        draws=[sampling.position] * batch,
        bans=[0] * batch,
        blocks=blocks,
        complete=lambda row: ProgramInput(position, blocks[row], 0, sampling, 10),
    )
    replay = program.replay

    def counted() -> None:
        with counter:
            replay()

    with torch.inference_mode():
        program.run(inputs)  # constants of the first run are not recorded
    counter.clear()
    with torch.inference_mode(), mock.patch.object(program, "replay", counted), counter.read_backs_counted():
        program.run(inputs)
    return counter


def estimate_ms(count: OpCounter) -> tuple[float, float]:
    """Return the least and most milliseconds of a counted step on an H100, estimated: its launches and its bytes."""
    launches, moved = count.kernels.total(), count.bytes.total()
    least, most = (launches * each / 1e3 + moved / BANDWIDTH * 1e3 for each in LAUNCH_US)
    return least, most


def _embed(codes: Tensor, text: Tensor, special: Tensor | None, speech: Tensor) -> int:
    return codes.shape[0] * text.shape[1] * (text.element_size() + 4)


def _open(batch: StepBatch, cache: KVCache) -> int:
    opened = sum(block != batch.spare for block in batch.opened.tolist())
    return sum(opened * tensor_bytes(stored[:, 0]) for stored in cache.cleared)


def _add_norm(x: Tensor, delta: Tensor | None, norm: nn.RMSNorm, dtype: torch.dtype) -> int:
    added = 0 if delta is None else tensor_bytes(delta, x)
    return tensor_bytes(x, norm.weight) + added + x.numel() * dtype.itemsize


def _rotate_and_store(qkv: Tensor, rotary: tuple[Tensor, Tensor], layer: int, batch: StepBatch, cache: KVCache) -> int:
    values = qkv.shape[0] * cache.keys.shape[2] * cache.keys.shape[4]
    queries = qkv.numel() - 2 * values
    return tensor_bytes(qkv, *rotary) + queries * qkv.element_size() + 2 * values * cache.keys.element_size()


def _slot_bytes(cache: KVCache) -> int:
    """Bytes of one position's keys and values in one layer."""
    return 2 * cache.keys.shape[2] * (cache.keys.shape[4] * cache.keys.element_size() + 4 * cache.quantized)


def _attend(query: Tensor, layer: int, batch: StepBatch, cache: KVCache) -> int:
    parts = int((batch.decode_lengths / PART).ceil().sum())
    partial = 4 * (query[0].numel() + 2 * query[0, ..., 0].numel())
    return int(batch.decode_lengths.sum()) * _slot_bytes(cache) + 2 * tensor_bytes(query) + 2 * parts * partial


def _attend_tiles(query: Tensor, layer: int, table: Tensor, batch: StepBatch, cache: KVCache) -> int:
    last = batch.positions[-query.shape[0] :].view(table.shape[0], -1).amax(dim=1) + 1
    return int(last.sum()) * _slot_bytes(cache) + 2 * tensor_bytes(query)


def _silu_up(gate_up: Tensor) -> int:
    return tensor_bytes(gate_up) * 3 // 2


def _sample(logits: Tensor, batch: SamplingBatch, bans: Tensor, kinds: Tensor) -> int:
    sortable = 8 * logits.numel()
    return 2 * tensor_bytes(logits) + logits.shape[0] * tensor_bytes(bans[0]) + 2 * sortable


def _advance(numbers: Tensor, drawn: Tensor, block_size: int, spare: int, speech_code: int) -> int:
    return 2 * 8 * 8 * numbers.shape[0]
