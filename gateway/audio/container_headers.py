"""Headers of files whose length is known before they are sent."""

from __future__ import annotations

import struct

from gateway.audio.formats import Encoding
from lighttts.v1 import audio_pb2

_WAV_HEADER_BYTES = 44
_FLAC_LENGTH = slice(18, 26)
"""In STREAMINFO: rate, channels and sample size in 28 bits, then the number of samples in 36."""
_FLAC_LENGTH_BITS = 36


def with_length(audio: bytes, encoding: Encoding, samples: int) -> bytes:
    """Return `audio`, an encoder's whole output of `samples` samples, with its length in the header (WAV and FLAC).

    A stream's header is sent before the length is known. Some readers need the length, such as libsndfile's `read`.
    """
    if not audio:  # libsndfile writes no header for a FLAC without samples
        return audio
    if encoding.number == audio_pb2.AUDIO_ENCODING_WAV:
        sizes = struct.pack("<I", len(audio) - 8), struct.pack("<I", len(audio) - _WAV_HEADER_BYTES)
        return audio[:4] + sizes[0] + audio[8 : _WAV_HEADER_BYTES - 4] + sizes[1] + audio[_WAV_HEADER_BYTES:]
    if encoding.number == audio_pb2.AUDIO_ENCODING_FLAC:
        layout = int.from_bytes(audio[_FLAC_LENGTH], "big") >> _FLAC_LENGTH_BITS << _FLAC_LENGTH_BITS
        return audio[: _FLAC_LENGTH.start] + (layout | samples).to_bytes(8, "big") + audio[_FLAC_LENGTH.stop :]
    return audio
