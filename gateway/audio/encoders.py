"""Encodes samples piece by piece. The output does not depend on how the samples are cut into pieces.

libsndfile (through soundfile) writes the file formats. At the end of a file it rewrites the length fields of the
header. A stream cannot be rewritten, so these writes are dropped; all formats here are readable without them.
"""

from __future__ import annotations

import io
import struct
from typing import Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from gateway.audio import notice
from gateway.audio.formats import Encoding, Provenance
from gateway.audio.samples import to_s16le
from lighttts.v1 import audio_pb2
from services.common.errors import InvalidInput

OGG_PAGE_SECONDS = 0.1
"""Audio per Ogg page; libsndfile's default of 1 s would delay the first audio by as much."""
_SFC_SET_OGG_PAGE_LATENCY_MS = 0x1302
"""Number of a libsndfile command for which soundfile has no name."""
MP3_COMPRESSION = 0.75
"""libsndfile's scale from 0 (best) to 1 (smallest): about 56 kbit/s at 24 kHz."""
_UNKNOWN_LENGTH = 0xFFFFFFFF


class Encoder(Protocol):
    """The concatenated results of all `encode` calls and `finish` are one file or one run of samples."""

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        """Return the bytes that are complete; some formats hold back up to a frame."""

    def finish(self) -> bytes:
        """Return the bytes held back. No `encode` may follow."""


def make_encoder(encoding: Encoding, rate: int, provenance: Provenance = "off") -> Encoder:
    """Create an encoder of mono samples at `rate` Hz. Raises InvalidInput if this server lacks one."""
    marked = provenance != "off"
    match encoding.number:
        case audio_pb2.AUDIO_ENCODING_PCM_S16LE:
            return _Pcm()
        case audio_pb2.AUDIO_ENCODING_PCM_F32LE:
            return _Floats()
        case audio_pb2.AUDIO_ENCODING_WAV:
            return _Pcm(header=_wav_header(rate, informed=provenance == "all"))
        case audio_pb2.AUDIO_ENCODING_FLAC:
            return _Sndfile(rate, "FLAC", "PCM_16", marked=marked)
        case audio_pb2.AUDIO_ENCODING_OGG_OPUS:
            return _Sndfile(rate, "OGG", "OPUS", marked=marked)
        case audio_pb2.AUDIO_ENCODING_MP3:
            return _Sndfile(rate, "MP3", "MPEG_LAYER_III", marked=marked)
        case audio_pb2.AUDIO_ENCODING_MULAW:
            return _Sndfile(rate, "RAW", "ULAW")
        case audio_pb2.AUDIO_ENCODING_ALAW:
            return _Sndfile(rate, "RAW", "ALAW")
        case _:
            return _aac(rate)


class _Floats:
    def encode(self, samples: NDArray[np.float32]) -> bytes:
        return samples.astype("<f4", copy=False).tobytes()

    def finish(self) -> bytes:
        return b""


class _Pcm:
    """16-bit samples, after a header if there is one."""

    def __init__(self, header: bytes = b"") -> None:
        self._header = header

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        return self.finish() + to_s16le(samples.tobytes())

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header


def _wav_header(rate: int, *, informed: bool) -> bytes:
    """Return the header of 16-bit mono samples of unknown number: both length fields have the largest value.

    It has 44 bytes, which many clients skip without reading them; `informed` adds a chunk about the speech.
    """
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", _UNKNOWN_LENGTH, b"WAVE")
        + layout
        + (notice.riff_info() if informed else b"")
        + struct.pack("<4sI", b"data", _UNKNOWN_LENGTH)
    )


class _Sndfile:
    """One of libsndfile's formats."""

    def __init__(self, rate: int, format_: str, subtype: str, *, marked: bool = False) -> None:
        self._pipe = _Pipe()
        mp3 = {"compression_level": MP3_COMPRESSION, "bitrate_mode": "CONSTANT"} if format_ == "MP3" else {}
        self._file = soundfile.SoundFile(self._pipe, "w", rate, 1, subtype, format=format_, **mp3)
        # For these formats libsndfile passes integers unchanged, but floats at full scale overflow.
        self._integers = subtype in ("PCM_16", "ULAW", "ALAW")
        if marked and format_ == "MP3":
            self._pipe.begin(notice.id3_tag())
        elif marked:
            self._file.software, self._file.comment = notice.SOFTWARE, notice.NOTICE
        if subtype == "OPUS":
            latency = soundfile._ffi.new("double *", 1000 * OGG_PAGE_SECONDS)
            soundfile._snd.sf_command(self._file._file, _SFC_SET_OGG_PAGE_LATENCY_MS, latency, 8)

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        integers = np.frombuffer(to_s16le(samples.tobytes()), "<i2")
        self._file.write(integers if self._integers else integers / np.float32(32768.0))
        return self._pipe.take()

    def finish(self) -> bytes:
        self._file.close()
        return self._pipe.take()


class _Pipe(io.RawIOBase):
    """A file that keeps only appended bytes; written bytes can neither be read nor changed."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0
        self._end = 0
        self._appended = bytearray()

    def begin(self, data: bytes) -> None:
        """Put `data` before the file, whose own positions do not count it."""
        self._appended[:0] = data

    def take(self) -> bytes:
        """Return the bytes appended since the last call."""
        appended = bytes(self._appended)
        self._appended.clear()
        return appended

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]  # any buffer
        known = self._end - self._position
        self._appended += part[known:]
        self._position += len(part)
        self._end = max(self._end, self._position)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position


def _aac(rate: int) -> Encoder:
    try:
        from gateway.audio.aac import AacEncoder  # an extra: its library is larger than the rest of the gateway
    except ImportError as error:
        raise InvalidInput(
            "this server has no AAC encoder; use mp3, opus, flac or wav, or install its 'aac' extra",
            field="config.audio.encoding",
        ) from error
    return AacEncoder(rate)
