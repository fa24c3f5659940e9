"""Searches a recording in a file. Needs soundfile and soxr, which marking itself does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from services.common.voices.sound_file import ForwardFile
from services.common.watermark.codebook import SAMPLE_RATE, SYMBOLS
from services.common.watermark.detect import Detection, Found, detect

MOST_CHANNELS = 8
HIGHEST_RATE = 192_000
"""In Hz; with these bounds, a second of a recording takes at most 6 MB of memory."""


class BadRecording(ValueError):
    """The file cannot be searched; the message says why."""


def search(file: Path | BinaryIO, keys: Mapping[int, bytes], longest_seconds: float) -> Detection:
    """Search a recording, its channels mixed. Raises BadRecording, TooShort, and OSError for a path."""
    try:
        with ForwardFile(file) as audio:
            if audio.channels > MOST_CHANNELS or audio.samplerate > HIGHEST_RATE:
                raise BadRecording(f"more than {MOST_CHANNELS} channels or {HIGHEST_RATE} Hz")
            most = round(longest_seconds * audio.samplerate)
            # The header of a stream states no length, so the limit applies to what is read.
            samples = audio.read(min(most + 1, audio.frames), dtype="float32", always_2d=True)
            rate = audio.samplerate
    except soundfile.LibsndfileError as error:
        raise BadRecording(f"not an audio file that can be read ({error.error_string})") from error
    except TypeError as error:  # soundfile takes a file of this name for samples without a header
        raise BadRecording("a file *.raw has no header; convert it to WAV") from error
    if len(samples) > most:
        raise BadRecording(f"longer than {longest_seconds:g} seconds; cut it into parts")
    return detect(np.asarray(soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)), keys)


def as_fields(found: Detection) -> dict[str, Any]:
    """Return a result as fields of JSON; `payload` in its two parts."""
    return {
        "marked": found.marked,
        "p_value": found.best.p_value,
        "best": _fields(found.best),
        "spans": [_fields(one) for one in found.spans],
    }


def _fields(one: Found) -> dict[str, Any]:
    key, deployment = divmod(one.payload, SYMBOLS)
    return {
        "start": one.start,
        "end": one.end,
        "z": one.z,
        "p_value": one.p_value,
        "searched_key": one.key,
        "key": key,
        "deployment": deployment,
    }
