"""Prompts that come as bare samples: the services read audio files, so they get a WAV header."""

from __future__ import annotations

import struct

from services.common.errors import InvalidInput

PCM, A_LAW, MU_LAW = 1, 6, 7
"""WAV's numbers of the layouts of samples."""

_FILE_MARKS = (b"RIFF", b"fLaC", b"OggS", b"ID3")


def is_file(audio: bytes) -> bool:
    """Whether `audio` begins as an audio file does."""
    return audio.startswith(_FILE_MARKS)


def as_wav(samples: bytes, rate: int, layout: int = PCM) -> bytes:
    """`samples` (mono; s16le, or one byte each for A_LAW and MU_LAW) as a WAV file of `rate` Hz.

    Raises InvalidInput for half a sample.
    """
    width = 2 if layout == PCM else 1
    if len(samples) % width:
        raise InvalidInput(
            f"the prompt has {len(samples)} bytes, but 16-bit samples have two each; send whole samples", field="audio"
        )
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, layout, 1, rate, rate * width, width, 8 * width)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data
