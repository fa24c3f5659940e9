"""Recordings of phones and browsers: AAC in MP4 (M4A) or alone, Opus in WebM. Needs PyAV, the extra `aac`.

The demuxer is chosen by the first bytes and gets no protocols: a file can neither be a playlist nor name other files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

EXTRA = "the 'aac' extra"
_BYTES_OF_MARK = 12


class CheckFormat(Protocol):
    def __call__(self, rate: int, channels: int) -> None:
        """Raise InvalidInput for a rate or a number of channels that no prompt may have."""


def demuxer_of(data: bytes) -> str | None:
    """Return FFmpeg's name of the format that `data` begins like; None for the formats of libsndfile and others."""
    mark = data[:_BYTES_OF_MARK]
    if mark[4:8] == b"ftyp":
        return "mov"
    if mark.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    # 12 bits of ones, a layer of 0: ADTS. MP3, which libsndfile reads, has another layer.
    if len(mark) > 1 and mark[0] == 0xFF and mark[1] & 0xF6 == 0xF0:
        return "aac"
    return None


def blocks(data: bytes, demuxer: str, check: CheckFormat, seconds: float) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """Return the rate of the first audio track, and its samples [n, channels] in blocks, of `seconds` and a little more
    at most.

    Raises InvalidInput, also while the blocks are read, for a file that cannot be decoded or if PyAV is missing.
    """
    try:
        import av  # an extra: its libraries are larger than the rest of a gateway
    except ImportError as error:
        raise InvalidInput(
            f"prompt audio is M4A, AAC or WebM, which this server cannot decode without {EXTRA}; send a WAV, FLAC,"
            " MP3 or Ogg file",
            field="audio",
        ) from error

    def read() -> Iterator[Any]:
        try:
            with av.open(io.BytesIO(data), "r", format=demuxer, options={"protocol_whitelist": ""}) as container:
                if not container.streams.audio:
                    raise _refusal("has no sound; send a recording of speech")
                track = container.streams.audio[0]
                check(rate=track.rate or 0, channels=track.channels)
                yield track.rate
                left = int(seconds * track.rate) + 1
                for frame in container.decode(track):
                    if frame.sample_rate != track.rate:
                        raise _refusal("changes its sample rate; export it again")
                    check(rate=frame.sample_rate, channels=len(frame.layout.channels))
                    block = _floats(frame)
                    yield block
                    left -= len(block)
                    if left <= 0:
                        return
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise _refusal("cannot be decoded; send a WAV, FLAC, MP3, Ogg, M4A or WebM file") from error

    reading = read()
    return next(reading), reading


def _floats(frame: Any) -> NDArray[np.float32]:
    """Return a frame's samples [n, channels] in [-1, 1]."""
    planes: NDArray[Any] = frame.to_ndarray()
    channels = len(frame.layout.channels)
    samples = planes.T if frame.format.is_planar else planes.reshape(-1, channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    info = np.iinfo(samples.dtype)
    middle = 0 if samples.dtype.kind == "i" else 1 << (info.bits - 1)
    return (samples.astype(np.float32) - np.float32(middle)) / np.float32(1 << (info.bits - 1))


def _refusal(what: str) -> InvalidInput:
    return InvalidInput(f"prompt audio {what}", field="audio")
