"""What stands in for a device or a setting that this machine cannot follow, and the log line that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
import torch

from services.common.server import StartError

log = structlog.get_logger(__name__)
Made = TypeVar("Made")


def on_device(
    name: str, make: Callable[[torch.device], Made], *, doing: str, memory_fraction: float = 1.0
) -> tuple[Made, torch.device]:
    """`make(device)` on the device of that name, and which device it became: the CPU, where a GPU is absent or fails.

    `doing` names the work in the log, such as "decoding"; a process may take `memory_fraction` of a GPU's memory.
    Raises StartError for a name that no device has, and whatever `make` raises on the CPU.
    """
    device = usable_device(name, doing)
    if device.type != "cpu":
        try:
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
            return make(device), device
        except RuntimeError as error:
            _stand_in("GPU FAILED", name, doing, error)
    return make(torch.device("cpu")), torch.device("cpu")


def usable_device(name: str, doing: str) -> torch.device:
    """The device of that name; the CPU, said loudly, when it is absent or does not answer. Raises StartError."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise StartError(f"LIGHTTTS_DEVICE {name!r} is no device; set cpu, cuda, cuda:1 ...") from error
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        _stand_in("NO SUCH DEVICE", name, doing, error)
        return torch.device("cpu")
    return device


def replaced(setting: str, by: str, reason: object) -> None:
    """Says that a setting cannot be followed here, and what is done instead."""
    log.warning("a setting cannot be followed here", setting=setting, instead=by, reason=first_line(reason))


def first_line(reason: object) -> str:
    """Of an error's words, or its type's name where it has none."""
    return next(iter(str(reason).splitlines()), type(reason).__name__)


def _stand_in(what: str, name: str, doing: str, error: BaseException) -> None:
    event = f"{what}, {doing.upper()} ON THE CPU INSTEAD, which is far slower"
    log.error(event, device=name, reason=first_line(error))
