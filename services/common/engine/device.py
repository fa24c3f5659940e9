"""Fall back to the CPU, or to a supported setting, and log it. Imports torch and the standard library alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from services.common.checkpoint.model_dir import ModelDirError
from services.common.engine.thread import current_device
from services.common.start_error import StartError

log = logging.getLogger(__name__)
Made = TypeVar("Made")


def on_device(
    name: str, make: Callable[[torch.device], Made], *, doing: str, memory_fraction: float = 1.0
) -> tuple[Made, torch.device]:
    """Return `make(device)` and the device used: the CPU if the GPU is absent or fails.

    A GPU is the thread's current device while `make` runs. `doing` names the work in the log, such as "decoding"; the
    process may use `memory_fraction` of a GPU's memory. Raises StartError for a name that no device has, StartError
    and ModelDirError of `make` on any device, and whatever `make` raises on the CPU.
    """
    device = usable_device(name, doing)
    if device.type != "cpu":
        try:
            if device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(memory_fraction, device)
            with current_device(device):
                return make(device), device
        except (StartError, ModelDirError):
            raise  # an error in the settings or the checkpoint, which the CPU cannot avoid
        except Exception as error:  # noqa: BLE001 - drivers and compilers raise many types; the CPU works
            _log_fallback("GPU FAILED", name, doing, error)
    return make(torch.device("cpu")), torch.device("cpu")


def usable_device(name: str, doing: str) -> torch.device:
    """Return the device of that name; a CUDA device gets an index, and a bare "cuda" means the current one.

    Returns the CPU, and logs an error, if the device is absent or does not work. Raises StartError for an invalid name.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise StartError(f"LIGHTTTS_DEVICE {name!r} is not a device; set cpu, cuda, cuda:1 ...") from error
    try:
        torch.zeros(1, device=device)
        if device.type == "cuda" and device.index is None:  # several torch functions need the index
            device = torch.device("cuda", torch.cuda.current_device())
    except Exception as error:  # noqa: BLE001 - torch without CUDA raises AssertionError, drivers many types
        _log_fallback("NO SUCH DEVICE", name, doing, error)
        return torch.device("cpu")
    return device


def replaced(setting: str, by: str, reason: object) -> None:
    """Log that a setting is not supported here, and what is used instead."""
    log.warning("setting not supported here", extra={"setting": setting, "instead": by, "reason": first_line(reason)})


def first_line(reason: object) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return next(iter(str(reason).splitlines()), type(reason).__name__)


def _log_fallback(what: str, name: str, doing: str, error: BaseException) -> None:
    event = f"{what}, {doing.upper()} ON THE CPU INSTEAD, which is far slower"
    log.error(event, extra={"device": name, "reason": first_line(error)})
