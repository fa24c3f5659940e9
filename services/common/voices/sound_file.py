"""An audio file of a client, read from its beginning to its end. Needs soundfile.

The file is not trusted: its header may have a wrong length, and a few kilobytes of FLAC can contain hours of silence.
So it is decoded block by block, up to a limit.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.voices import containers

_BLOCK = 65536  # frames decoded at a time
_RATES, _MOST_CHANNELS = range(4000, 192_001), 8
"""Of recordings for people to hear."""


class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no type hints
    """Reads a file that states no length, too, as encoders write FLAC to a pipe and a gateway streams it.

    soundfile seeks to its place after each read, which fails at the end of such a file.
    """

    def seekable(self) -> bool:
        return False


def blocks(data: bytes, check: containers.CheckFormat, longest: float) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """Return the rate and the samples [n, channels] in blocks, of `longest` seconds and a little more at most.

    Raises InvalidInput, also while the blocks are read, for a file that cannot be decoded.
    """
    demuxer = containers.demuxer_of(data)
    if demuxer is None:
        return _sndfile_blocks(_with_length(data), check, longest)
    return containers.blocks(data, demuxer, check, longest)


def is_recording(data: bytes, longest: float) -> bool:
    """Return whether a file can be decoded, up to `longest` seconds.

    A file that begins like M4A, AAC or WebM counts as a recording if PyAV, which decodes these, is not installed.
    """
    if containers.demuxer_of(data) is not None and find_spec("av") is None:
        return True
    try:
        _, samples = blocks(data, _check_format, longest)
        return sum(len(block) for block in samples) > 0
    except InvalidInput:
        return False


def _check_format(rate: int, channels: int) -> None:
    if rate not in _RATES or channels > _MOST_CHANNELS:
        raise InvalidInput(f"{channels} channels at {rate} Hz are no recording", field="audio")


def _with_length(data: bytes) -> bytes:
    """Return a WAV file whose samples have a length in the header: programs that write to a pipe may leave it 0."""
    riff, size, wave = struct.unpack_from("<4sI4s", data.ljust(12, b"\0"))
    if (riff, wave) != (b"RIFF", b"WAVE") or size + 8 == len(data):
        return data
    place = 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        if name == b"data":
            # This length stands for all that follows.
            return data if length else data[: place + 4] + b"\xff" * 4 + data[place + 8 :]
        place += 8 + length + length % 2
    return data


def _sndfile_blocks(
    data: bytes, check: containers.CheckFormat, longest: float
) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """Return the rate and the samples [n, channels] in blocks, of a file that libsndfile reads."""

    def read() -> Iterator[Any]:
        seconds_read = 0.0
        try:
            with ForwardFile(io.BytesIO(data)) as file:
                check(rate=int(file.samplerate), channels=file.channels)
                yield int(file.samplerate)
                left = int(longest * file.samplerate) + 1
                while left > 0 and len(block := file.read(min(_BLOCK, left), dtype="float32", always_2d=True)):
                    left -= len(block)
                    yield block
                    seconds_read += len(block) / file.samplerate
        except soundfile.SoundFileError as error:
            raise containers.undecodable(seconds_read) from error

    reading = read()
    return next(reading), reading
