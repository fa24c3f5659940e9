"""Keeps memory that tensors on a CPU have freed for the next ones.

glibc returns freed memory to the system as soon as some megabytes lie at the end of its heap, and takes it again, page
by page, for the next large tensor: a twentieth of a decode worker's processor time. Imports the standard library alone.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 64 * 2**20
"""Largest unused memory at the end of the heap."""
_LARGEST_BYTES = 32 * 2**20
"""Larger blocks are mapped and returned one by one; the C library accepts no larger number."""


def keep_freed_memory() -> bool:
    """Let this process keep up to `KEPT_BYTES` of freed memory; false if its C library has no such settings."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(*pair) == 1 for pair in ((_M_MMAP_THRESHOLD, _LARGEST_BYTES), (_M_TRIM_THRESHOLD, KEPT_BYTES)))
