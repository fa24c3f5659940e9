"""The default memory for streams' states."""

from __future__ import annotations

from pathlib import Path

import torch

GPU_SHARE = 0.8
"""Share of the memory that is free after the model is loaded; the rest is for the computation of batches."""
CPU_SHARE = 0.5
"""Share of the free memory: other processes need memory too, and a stream without state is slow, not lost. Pages are
allocated as streams fill them."""
MOST_STREAMS = 256
"""Largest size of a pool, in utterances of the longest kind."""
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def default_budget(device: torch.device, fraction: float = 1.0) -> int:
    """Bytes for states on `device`, of whose memory this process may use `fraction`."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(GPU_SHARE * max(0, min(free, int(fraction * total) - torch.cuda.memory_reserved(device))))
    return int(CPU_SHARE * fraction * free_memory())


def free_memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Bytes that are free in the container or on the machine, or 4 GiB if neither is known."""
    found = []
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            found.append(int(limit) - int(used))
    except OSError:
        pass  # no cgroup v2 here
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError):
        pass  # not Linux
    return max(0, min(found, default=4 * 2**30))
