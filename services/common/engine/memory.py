"""The memory of this machine, container or GPU, and the comparison of budgets with it before anything is allocated.

An allocator does not refuse a budget that is too large: pages are allocated when they are first written, and Kubernetes
sets vm.overcommit_memory=1 on its nodes. The process would fill the memory later and be killed.

Needs the standard library; torch only for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.start_error import StartError

if TYPE_CHECKING:
    import torch

ROOT = Path("/")
"""The root of the system's files /proc and /sys."""
UNKNOWN = 4 * 2**30
"""Assumed size in bytes of a memory that this system does not report."""
_CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
_CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@dataclass(frozen=True)
class Memory:
    """Sizes in bytes."""

    total: int
    free: int
    """What can be allocated now, file caches included, because the system gives them up."""


def host_memory() -> Memory:
    """Return the memory of the container (the tightest cgroup, v1 or v2) or of the machine."""
    found = [memory for memory in (_machine(), *_cgroups()) if memory is not None]
    if not found:
        return Memory(UNKNOWN, UNKNOWN)
    return Memory(min(memory.total for memory in found), max(0, min(memory.free for memory in found)))


def free_memory(device: torch.device, fraction: float = 1.0) -> int:
    """Return the free bytes on `device`. Of a GPU's memory this process may use `fraction`."""
    if device.type != "cuda":
        return host_memory().free
    import torch

    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    unused = reserved - torch.cuda.memory_allocated(device)
    return unused + max(0, min(free, int(fraction * total) - reserved))


def check_room(what: str, needed: int, free: int, *, setting: str, where: str) -> None:
    """Raise StartError if `needed` bytes are more than `free`. `where` names the memory, such as "this machine"."""
    if needed > free:
        reason = f"it takes {gib(needed)}, and {where} has {gib(free)} free"
        raise StartError(f"no room for {what} ({reason}); set LIGHTTTS_{setting.upper()} lower")


def check_caches(budgets: Mapping[str, int]) -> None:
    """Raise StartError if caches, which fill up over time, would not fit in addition to what this process holds now.

    `budgets` maps the names of settings to bytes.
    """
    room = host_memory().total - resident_memory()
    needed = sum(budgets.values())
    if needed > room:
        names = ", ".join(sorted(budgets, key=budgets.__getitem__, reverse=True))
        largest = max(budgets, key=budgets.__getitem__)
        reason = f"{names} take {gib(needed)} together, and this machine or container has {gib(max(0, room))} for them"
        raise StartError(f"too little memory ({reason}); set LIGHTTTS_{largest.upper()} lower")


def resident_memory() -> int:
    """Return the bytes of memory that this process uses; 0 where the system does not report it."""
    try:
        return int((ROOT / "proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"


def _machine() -> Memory | None:
    try:
        values = _table(ROOT / "proc/meminfo")
        return Memory(1024 * values["MemTotal"], 1024 * values["MemAvailable"])
    except (OSError, KeyError, ValueError):
        return None  # not Linux


def _cgroups() -> Iterator[Memory | None]:
    """Yield the limits of this process's cgroup and of those above it, as far as they are visible here."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    v1 = next((path for controllers, path in own.items() if "memory" in controllers.split(",")), "/")
    mounted = ROOT / "sys/fs/cgroup"
    for mount, path, names in (
        (mounted, own.get("", "/"), _CGROUP_V2),
        (mounted / "unified", own.get("", "/"), _CGROUP_V2),
        (mounted / "memory", v1, _CGROUP_V1),
    ):
        place = mount / path.lstrip("/")
        while place.is_relative_to(mount):
            yield _cgroup(place, *names)
            place = place.parent


def _cgroup(place: Path, limit: str, used: str, cached: str) -> Memory | None:
    try:
        total = int((place / limit).read_text())  # "max", which is no number, means unlimited
        taken = int((place / used).read_text())
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):  # without these figures, file caches count as used
        taken -= _table(place / "memory.stat").get(cached, 0)
    return Memory(total, total - taken)


def _table(path: Path) -> dict[str, int]:
    """Read lines of a name, a number and perhaps a unit."""
    words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    return {name: int(value) for name, value, *_ in words}
