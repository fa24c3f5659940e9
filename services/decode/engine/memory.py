"""The memory for streams' states."""

from __future__ import annotations

import torch

from services.common.engine.memory import free_memory

GPU_SHARE = 0.8
"""Share of the memory that is free after the model is loaded; the rest is for the computation of batches."""
CPU_SHARE = 0.5
"""Share of the free memory: other processes need memory too, and a stream without state is slow, not lost. Pages are
allocated as streams fill them."""
MOST_STREAMS = 256
"""Largest size of a pool, in utterances of the longest kind."""
FREE_LIST_BYTES = 256
"""Memory of the host for each block of a pool: its places in the sets of free blocks and slots."""


def default_budget(device: torch.device, fraction: float = 1.0) -> int:
    """Bytes for states on `device`, of whose memory this process may use `fraction`."""
    if device.type == "cuda":
        return int(GPU_SHARE * free_memory(device, fraction))
    return int(CPU_SHARE * fraction * free_memory(device))
