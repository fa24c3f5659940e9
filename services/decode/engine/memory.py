"""How much memory streams' states may take when no setting says."""

from __future__ import annotations

from pathlib import Path

import torch

GPU_SHARE = 0.8
"""Of the memory that is free once the model is loaded; the rest is for what a batch computes."""
CPU_SHARE = 0.5
"""Of the free memory: other processes live here too, and a recomputing stream is late, not lost. Pages are taken as
streams fill them."""
MOST_STREAMS = 256
"""No pool is larger than this many of the longest utterances."""
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def default_budget(device: torch.device, fraction: float = 1.0) -> int:
    """Bytes for kept states on `device`, of which this process may take `fraction`."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(GPU_SHARE * max(0, min(free, int(fraction * total) - torch.cuda.memory_reserved(device))))
    return int(CPU_SHARE * fraction * free_memory())


def free_memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Bytes this process may still take: by the container or the machine, or 4 GiB if neither tells."""
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
