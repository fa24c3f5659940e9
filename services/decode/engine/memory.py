"""The memory for streams' states, and what a worker needs besides them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.common.engine.memory import check_room, free_memory, host_memory
from services.decode.flow.kv_cache import pool_bytes

GPU_SHARE = 0.8
"""Largest share of the memory that is free after the model is loaded; the rest is for the computation of batches."""
LEAST_GPU_SHARE = 0.5
"""Smallest share, if the programs need much of a small memory: those that find none are left out, which costs time."""
CPU_SHARE = 0.5
"""Share of the free memory: other processes need memory too, and a stream without state is slow, not lost. Pages are
allocated as streams fill them."""
MOST_STREAMS = 256
"""Largest size of a pool, in utterances of the longest kind."""
FREE_LIST_BYTES = 256
"""Memory of the host for each block of a pool: its places in the sets of free blocks and slots."""
WORKSPACE_BYTES = 256 * 2**20
"""Workspaces on a GPU: 32 MiB of cuBLAS for each of two CUDA streams on Hopper, and those of cuDNN's convolutions."""


def default_budget(device: torch.device, fraction: float = 1.0, programs: int = 0) -> int:
    """Bytes for states on `device`, of whose memory this process may use `fraction`; programs need `programs` bytes."""
    free = free_memory(device, fraction)
    if device.type == "cuda":
        return int(min(GPU_SHARE * free, max(LEAST_GPU_SHARE * free, free - programs - WORKSPACE_BYTES)))
    return int(CPU_SHARE * fraction * free)


@dataclass(frozen=True)
class StateMemory:
    """How a device's memory is divided at the start. Sizes in bytes."""

    free: int
    """What was free for this process after the weights were loaded."""
    blocks: int
    """Blocks of the pool."""
    block: int
    """One block, that is, one chunk of a stream."""
    slot: int
    """The tails of the convolutions of one stream; there are as many as blocks."""
    programs: int
    """What the recorded programs are expected to take; 0 without programs."""
    workspace: int
    """What the libraries are expected to take."""

    @classmethod
    def plan(
        cls,
        device: torch.device,
        fraction: float,
        sizes: tuple[int, int],
        *,
        budget: int | None,
        most: int,
        programs: int = 0,
    ) -> StateMemory:
        """Divide the memory of which this process may use `fraction`, by the `sizes` of a block and of a slot.

        `budget` bytes are for blocks; None means a share of the free memory, in which on a GPU the spare block and the
        tails are included. There are at most `most` blocks. Raises StartError if they do not fit.
        """
        (block, slot), on_gpu = sizes, device.type == "cuda"
        free = free_memory(device, fraction)
        if budget is not None:
            blocks = budget // block
        elif on_gpu:
            fixed = pool_bytes(1, block, slot) - block - slot
            blocks = max(0, (default_budget(device, fraction, programs) - fixed) // (block + slot))
        else:
            blocks = default_budget(device, fraction) // block
        made = cls(free, min(blocks, most), block, slot, programs, WORKSPACE_BYTES if on_gpu else 0)
        made._check(device)
        return made

    @property
    def states(self) -> int:
        """The pool: all blocks and slots, spare ones included."""
        return pool_bytes(self.blocks, self.block, self.slot)

    def fields(self) -> dict[str, float]:
        """The parts in GiB, for the log."""
        tails = pool_bytes(self.blocks, 0, self.slot)
        parts = {
            "free": self.free,
            "blocks": self.states - tails,
            "tails": tails,
            "programs": self.programs,
            "workspace": self.workspace,
            "rest": self.free - self.states - self.programs - self.workspace,
        }
        return {f"{name}_gib": round(size / 2**30, 2) for name, size in parts.items()}

    def _check(self, device: torch.device) -> None:
        what, setting = f"{self.blocks} blocks of streams' states", "decode_state_bytes"
        on_host = self.blocks * FREE_LIST_BYTES
        if device.type == "cuda":
            check_room(what, self.states, self.free, setting=setting, where=str(device))
        else:
            on_host += self.blocks * self.block
        check_room(what, on_host, host_memory().free, setting=setting, where="this machine or container")
