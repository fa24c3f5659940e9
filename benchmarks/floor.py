"""What no program on this machine can beat: its measured rate of arithmetic and its measured memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Seconds: of the processor on one CPU thread, so that other programs' turns do not count; else of the wall."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def memory_bandwidth(device: torch.device, clock: Clock) -> float:
    """Bytes per second at which this device reads a large tensor, best of several passes."""
    block = torch.ones(128 * 2**20 if device.type == "cuda" else 64 * 2**20, device=device)
    best = 0.0
    for _ in range(7):
        start = clock()
        block.sum().item()
        best = max(best, block.numel() * block.element_size() / (clock() - start))
    return best


def matmul_rate(device: torch.device, dtype: torch.dtype, clock: Clock, size: int = 1024) -> float:
    """Floating-point operations per second of one large matrix product, best of several."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(7):
        start = clock()
        (left @ right)[0, 0].item()
        best = max(best, 2 * size**3 / (clock() - start))
    return best


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions that `work` runs."""
    # torch counts attention's CUDA kernels by itself, the CPU's only where they fall apart into products.
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    )
    with counter:
        work()
    return int(counter.get_total_flops())


def _attention_flops(query: Any, key: Any, value: Any, *rest: object, **options: object) -> int:
    """Of torch's counter: shapes [batch, heads, positions, width] in, operations out."""
    return int(sdpa_flop_count(query, key, value))


def weight_bytes(*modules: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
