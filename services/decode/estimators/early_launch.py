"""Launching a Triton kernel before the kernel before it has ended: CUDA's programmatic dependent launch.

A GPU of compute capability 9.0 or more can start a kernel's programs while those of the kernel before it still run, if
its launch allows that. This hides the launch and the start of the programs, of which the kernels of an Euler step at
few streams mostly consist. A kernel must then wait for the one before it before it touches memory.

Why the order of all reads and writes stays complete: every kernel that is launched so waits as its first statement, in
all of its programs, until all programs of the kernel before it have ended and what they wrote is visible. That kernel
had waited in the same way. So past the wait of a kernel all kernels before it have ended: whatever it reads has been
written, and whatever it overwrites, memory that a recording reuses included, is no longer read. A kernel of torch is
launched without the permission, and starts when the one before it has ended. (A library that gives its own kernels the
permission lets them wait in the same way.)

A program lets the next kernel start after its own wait and not before: then at most one kernel waits beside the one
that runs. More of them would occupy the registers and shared memory of the multiprocessors without need. The next
kernel starts once all programs of this one have let it or have ended, so it takes no place from them. The same holds
for Blackwell's tensor memory, which a program allocates before its wait: the next kernel's wait until some is free.

This module needs the triton package. Triton compiles annotations too, so only compile-time constants have one.
"""

from __future__ import annotations

from typing import Any

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

# Triton 3.2, that of torch 2.6, has neither: there a launch with `early` fails, and the others work.
_wait: Any = getattr(tl.extra.cuda, "gdc_wait", None)
_let_next: Any = getattr(tl.extra.cuda, "gdc_launch_dependents", None)


def launch_options(early: bool) -> dict[str, bool]:
    """Return what the launch of a kernel that calls `after_previous(EARLY)` is given in addition."""
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def after_previous(EARLY: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803 - Triton's spelling of constants
    """Wait for the kernel before this one, then let the next one start. The first statement of a kernel."""
    if EARLY:
        _wait()
        _let_next()
