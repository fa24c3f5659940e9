"""Which of several forms of a computation is the fastest here: measured, because it depends on the card."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Form = TypeVar("Form")
Seconds = Callable[[Callable[[], None]], float]
"""Returns the seconds of a call."""
REPEATS = 5
"""Calls that are timed; the least time counts, because others may share the card."""


def fastest_first(
    what: str,
    forms: Mapping[str, Form],
    measure: Callable[[Form], float],
    leave_out: Callable[[str, Exception], None],
) -> dict[str, Form]:
    """Return the forms of `what` that work here, the fastest first; those for which memory is lacking now are last.

    `measure` returns a form's seconds; `leave_out` learns the name of a form for which it raises, and the error.
    """
    times: dict[str, float] = {}
    for name, form in forms.items():
        try:
            times[name] = measure(form)
        except torch.OutOfMemoryError:
            times[name] = math.inf  # smaller batches may have a program all the same
        except Exception as error:  # noqa: BLE001 - drivers and compilers raise errors of their own types
            leave_out(name, error)
    order = sorted(times, key=lambda name: times[name])
    measured = {name: round(1e3 * times[name], 2) for name in order if times[name] < math.inf}
    if measured:
        log.info(f"{what} measured", extra={"fastest": order[0], "milliseconds": measured})
    return {name: forms[name] for name in order}


def least_seconds(work: Callable[[], None], device: torch.device, seconds: Seconds | None = None) -> float:
    """Return the least seconds of some calls; `seconds` measures instead of the device's clock."""
    clock = seconds or _device_seconds(device)
    return min(clock(work) for _ in range(REPEATS))


def _device_seconds(device: torch.device) -> Seconds:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def seconds(work: Callable[[], None]) -> float:
        wait()
        begin = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - begin

    return seconds
