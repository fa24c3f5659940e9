"""The C library's heaps ("arenas") of this process."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8
"""From glibc's malloc.h."""
ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two heaps of the C library, unless the environment has a limit (`MALLOC_ARENA_MAX`).

    By default glibc gives nearly every thread a heap of its own, and each of them keeps the most that its thread ever
    held: a gateway's memory then grows for hours, though it holds nothing more. Other C libraries have no such heaps.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
