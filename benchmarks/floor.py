"""Measures the limits of this machine: its rate of arithmetic and its memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Return a clock in seconds: processor time for one CPU thread, which excludes other programs; else wall time."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def memory_bandwidth(device: torch.device, clock: Clock) -> float:
    """Return the bytes per second at which this device reads a large tensor, best of several passes."""
    block = torch.ones(128 * 2**20 if device.type == "cuda" else 64 * 2**20, device=device)
    best = 0.0
    for _ in range(7):
        start = clock()
        block.sum().item()
        best = max(best, block.numel() * block.element_size() / (clock() - start))
    return best


def matmul_rate(device: torch.device, dtype: torch.dtype, clock: Clock, size: int = 1024) -> float:
    """Return the floating-point operations per second of a large matrix product, best of several."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(7):
        start = clock()
        (left @ right)[0, 0].item()
        best = max(best, 2 * size**3 / (clock() - start))
    return best


def flop_counter() -> FlopCounterMode:
    """Return a counter of the floating-point operations of matrix products, convolutions and attentions."""
    # torch counts attention's CUDA kernels; on a CPU it counts only attention that consists of products.
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    )


def _attention_flops(query: Any, key: Any, value: Any, *rest: object, **options: object) -> int:
    """The form that torch's counter needs: from shapes [batch, heads, positions, width] to operations."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def weight_bytes(*modules: nn.Module) -> int:
    """Return the bytes of all parameters and buffers."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
