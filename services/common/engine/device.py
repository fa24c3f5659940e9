"""What stands in for a device or a setting that this machine cannot follow, and the log line that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
import torch

from services.common.checkpoint.model_dir import ModelDirError
from services.common.engine.thread import current_device
from services.common.server import StartError

log = structlog.get_logger(__name__)
Made = TypeVar("Made")


def on_device(
    name: str, make: Callable[[torch.device], Made], *, doing: str, memory_fraction: float = 1.0
) -> tuple[Made, torch.device]:
    """`make(device)` on the device of that name, and which device it became: the CPU, where a GPU is absent or fails.

    A GPU is the thread's current device while `make` runs. `doing` names the work in the log, such as "decoding"; a
    process may take `memory_fraction` of a GPU's memory. Raises StartError for a name that no device has, StartError
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
            raise  # a mistake in the settings or the checkpoint; the CPU cannot mend it
        except Exception as error:  # noqa: BLE001 - drivers and compilers fail in ways of their own; the CPU works
            _stand_in("GPU FAILED", name, doing, error)
    return make(torch.device("cpu")), torch.device("cpu")


def usable_device(name: str, doing: str) -> torch.device:
    """The device of that name, always with an index if it is a CUDA device: a bare "cuda" is the current one.

    The CPU, with an error in the log, when the device is absent or does not answer. Raises StartError.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise StartError(f"LIGHTTTS_DEVICE {name!r} is no device; set cpu, cuda, cuda:1 ...") from error
    try:
        torch.zeros(1, device=device)
        if device.type == "cuda" and device.index is None:  # several of torch's functions refuse it
            device = torch.device("cuda", torch.cuda.current_device())
    except Exception as error:  # noqa: BLE001 - torch built without CUDA asserts, and drivers fail in ways of their own
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
