"""Which form of the residual blocks' convolutions is the fastest here: measured, because it depends on the card."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

import torch

from services.decode.flow.program import Record
from services.decode.flow.programs import device_in_force
from services.decode.vocoder.activation import ConvolveJoin
from services.decode.vocoder.programs import WindowProgram, window_shapes
from services.decode.vocoder.stream import Vocoder, Window

log = logging.getLogger(__name__)

REPEATS = 5
"""Batches that are timed for each form; the least time counts."""

Seconds = Callable[[Callable[[], None]], float]
"""Returns the seconds of a call."""


def fastest_first(
    vocoder: Vocoder,
    most_streams: int,
    chunk_frames: int,
    record: Record | None,
    forms: Mapping[str, ConvolveJoin],
    leave_out: Callable[[str, Exception], None],
    seconds: Seconds | None = None,
) -> dict[str, ConvolveJoin]:
    """Return the forms that work here, the fastest first; those for which memory is lacking now are last.

    `leave_out` learns the name of a form that fails, and its error. `seconds` measures instead of the device's clock.
    """
    times: dict[str, float] = {}
    for name, form in forms.items():
        try:
            times[name] = batch_seconds(vocoder, most_streams, chunk_frames, record, form, seconds)
        except torch.OutOfMemoryError:
            times[name] = math.inf  # smaller batches may have a program all the same
        except Exception as error:  # noqa: BLE001 - drivers and compilers raise errors of their own types
            leave_out(name, error)
    order = sorted(times, key=lambda name: times[name])
    measured = {name: round(1e3 * times[name], 2) for name in order if times[name] < math.inf}
    if measured:
        log.info("the vocoder's convolutions measured", extra={"fastest": order[0], "milliseconds": measured})
    return {name: forms[name] for name in order}


@torch.inference_mode()
def batch_seconds(
    vocoder: Vocoder,
    most_streams: int,
    chunk_frames: int,
    record: Record | None,
    form: ConvolveJoin | None,
    seconds: Seconds | None = None,
) -> float:
    """Return the seconds of one batch with this form, as a program: one chunk of each of the most streams.

    Raises whatever the recording or the form raises. The vocoder's own programs and form stay as they are.
    """
    around = vocoder.context.left + vocoder.context.right
    shapes = window_shapes(most_streams, chunk_frames, vocoder.context)
    shape = next(shape for shape in shapes if shape.frames == around + chunk_frames)  # the largest comes first
    size, noise = (shape.frames, vocoder.config.in_channels), torch.Generator("cpu").manual_seed(0)
    mel = torch.randn(size, generator=noise).to(vocoder.device) - 5.0
    before, vocoder.generator.convolve = vocoder.generator.convolve, form
    try:
        with device_in_force(vocoder.device):
            program = WindowProgram(vocoder, shape)
            if record is not None:
                program.record(record)
            program.fill([Window(vocoder.open(seed), mel, 0, shape.frames, 0) for seed in range(shape.streams)])
            program.step()
            clock = seconds or _device_seconds(vocoder.device)
            return min(clock(program.step) for _ in range(REPEATS))
    finally:
        vocoder.generator.convolve = before


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
