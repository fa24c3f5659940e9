"""Prompt recordings in the forms that clients send: base64 in JSON, or samples without a file header."""

from __future__ import annotations

import asyncio
import base64
import binascii
import struct
from typing import Annotated

from pydantic import Field

from services.common.errors import InvalidInput

SLICE_CHARS = 256 * 1024
"""Characters of base64 that one call decodes."""
PCM, A_LAW, MU_LAW = 1, 6, 7
"""WAV's format codes of sample layouts."""

_FILE_MARKS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\x1a\x45\xdf\xa3")
_MP4_MARK = b"ftyp"
"""After the length of the first box."""

InlineAudio = Annotated[
    str, Field(description="An audio file (WAV, FLAC, MP3, Ogg, M4A, WebM): base64, or a data URL with base64.")
]


def is_file(audio: bytes) -> bool:
    """Return whether `audio` begins like an audio file."""
    return audio.startswith(_FILE_MARKS) or audio[4:8] == _MP4_MARK


def as_wav(samples: bytes, rate: int, layout: int = PCM) -> bytes:
    """Return `samples` (mono; s16le, or one byte each for A_LAW and MU_LAW) as a WAV file of `rate` Hz.

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


async def decode_audio(text: str) -> bytes:
    """Return the file's bytes, decoded outside the event loop.

    Raises InvalidInput unless it is base64 or a data URL; no URL is fetched.
    """
    return await asyncio.to_thread(_decode, text)


def _decode(text: str) -> bytes:
    if text.startswith(("http://", "https://", "file://")):
        raise InvalidInput("files are not fetched from URLs; send the file itself, in base64", field="audio")
    _, comma, data = text.partition(",") if text.startswith("data:") else ("", ",", text)
    try:
        if not comma:
            raise ValueError("a data URL without a comma")
        return _from_base64(data)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(
            f"the audio is not base64 ({error}); send the whole file in base64", field="audio"
        ) from error


def _from_base64(data: str) -> bytes:
    # By slices: one call for megabytes would keep the interpreter's lock, and stop all other threads, until its end.
    audio, rest, padded = bytearray(), "", False
    for start in range(0, len(data), SLICE_CHARS):
        part = rest + "".join(data[start : start + SLICE_CHARS].split())
        if part and padded:
            raise ValueError("data after the padding")
        whole = len(part) - len(part) % 4
        padded = part[:whole].endswith("=")
        audio += base64.b64decode(part[:whole], validate=True)
        rest = part[whole:]
        if rest and padded:
            raise ValueError("data after the padding")
    audio += base64.b64decode(rest, validate=True)
    return bytes(audio)
