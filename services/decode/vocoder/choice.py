"""Which form of the residual blocks' convolutions is the fastest here: measured, because it depends on the card."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from services.decode.engine.fastest import Seconds, fastest_first, least_seconds
from services.decode.flow.program import Record
from services.decode.flow.programs import device_in_force
from services.decode.vocoder.activation import ConvolveJoin
from services.decode.vocoder.programs import WindowProgram, window_shapes
from services.decode.vocoder.stream import Vocoder, Window


def fastest_forms(
    vocoder: Vocoder,
    most_streams: int,
    chunk_frames: int,
    record: Record | None,
    forms: Mapping[str, ConvolveJoin],
    leave_out: Callable[[str, Exception], None],
    seconds: Seconds | None = None,
) -> dict[str, ConvolveJoin]:
    """Return the forms that work here, the fastest first; see `fastest_first`."""

    def measure(form: ConvolveJoin) -> float:
        return batch_seconds(vocoder, most_streams, chunk_frames, record, form, seconds)

    return fastest_first("the vocoder's convolutions", forms, measure, leave_out)


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
            return least_seconds(program.step, vocoder.device, seconds)
    finally:
        vocoder.generator.convolve = before
