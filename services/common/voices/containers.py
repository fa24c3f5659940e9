"""Recordings of phones and browsers: AAC in MP4 (M4A) or alone, Opus in WebM. Needs PyAV, the extra `aac`.

The demuxer is chosen by the first bytes and gets no protocols: a file can neither be a playlist nor name other files.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

EXTRA = "the 'aac' extra"
_BYTES_OF_MARK = 12
_MOST_BYTES_AT_ONCE = 16 * 2**20
"""Largest single allocation of FFmpeg. Its list of a track's packets has 24 bytes for each, so this is enough for hours
of AAC."""
_MOST_TRACKS = 16
"""Videos of phones have about ten."""


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
    """Return the rate of the first audio track of a known codec, and its samples [n, channels] in blocks, of `seconds`
    and a little more at most.

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

    # A header of a few bytes can state a billion packets, for which FFmpeg would fill gigabytes. The library that this
    # module of PyAV is linked with is the one that PyAV uses.
    ctypes.CDLL(av.logging.__file__).av_max_alloc(ctypes.c_size_t(_MOST_BYTES_AT_ONCE))
    options = {"protocol_whitelist": "", "max_streams": str(_MOST_TRACKS)}

    def read() -> Iterator[Any]:
        seconds_read = 0.0
        try:
            with av.open(io.BytesIO(data), "r", format=demuxer, options=options) as container:
                if not container.streams.audio:
                    raise _refusal("has no sound; send a recording of speech")
                # A track of an unknown codec has no context. Phones add one, for surround sound, to the track of AAC.
                track = next((track for track in container.streams.audio if track.codec_context is not None), None)
                if track is None:
                    raise _refusal("has a codec that this server cannot decode; send a WAV, FLAC, MP3 or Ogg file")
                check(rate=track.rate or 0, channels=track.channels)
                yield track.rate
                left = int(seconds * track.rate) + 1
                for frame in container.decode(track):
                    if frame.sample_rate != track.rate:
                        raise _refusal("changes its sample rate; export it again")
                    check(rate=frame.sample_rate, channels=len(frame.layout.channels))
                    block = _floats(frame)
                    yield block
                    seconds_read += len(block) / track.rate
                    left -= len(block)
                    if left <= 0:
                        return
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise undecodable(seconds_read) from error

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


def undecodable(seconds_read: float) -> InvalidInput:
    """Return the refusal of a file whose decoding failed after `seconds_read`."""
    if seconds_read > 0:
        return _refusal(f"is damaged or cut off after {seconds_read:.1f} s; export it again and send the whole file")
    return _refusal("cannot be decoded; send a WAV, FLAC, MP3, Ogg, M4A or WebM file, whole and undamaged")


def _refusal(what: str) -> InvalidInput:
    return InvalidInput(f"prompt audio {what}", field="audio")
