"""How long a process has been starting, without the time that it waited for a processor.

A limit in plain seconds ends processes that load well, only because other programs use the machine: at eight programs
on two processors, a start of 50 seconds takes four minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

INTERVAL = 1.0
"""Seconds of wall-clock time that are judged at once: long against the kernel's clock ticks of 0.01 s."""
IDLE = 0.02
"""Share of an interval below which a process counts as idle: it waits for a disk, a network, or for nothing."""


class StartClock:
    """Seconds of a start: while the process computes its own processor time, otherwise all of the time."""

    def __init__(self, now: float, processor: float) -> None:
        """`now` is the time of a monotonic clock, `processor` the seconds of processor time so far."""
        self._counted = 0.0
        self._since, self._processor = now, processor

    def seconds(self, now: float, processor: float) -> float:
        """Return the seconds so far."""
        passed, computed = now - self._since, processor - self._processor
        counted = self._counted + (passed if computed < IDLE * passed else min(passed, computed))
        if passed >= INTERVAL:
            self._counted, self._since, self._processor = counted, now, processor
        return counted


def processor_seconds(pid: int | None) -> float:
    """Return the processor time that all threads of a process have used; 0 if this system does not tell it."""
    try:
        # The name, which may contain blanks, is in parentheses before these fields; see proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
