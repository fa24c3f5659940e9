"""Headers of files whose length is known before they are sent."""

from __future__ import annotations

import struct

from gateway.audio.formats import Encoding
from lighttts.v1 import audio_pb2

_WAV_CHUNKS = 12
"""In a WAV file: where the chunks begin, each with four bytes of name and four of length."""
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
        data = _wav_data(audio)
        sizes = struct.pack("<I", len(audio) - 8), struct.pack("<I", len(audio) - data)
        return audio[:4] + sizes[0] + audio[8 : data - 4] + sizes[1] + audio[data:]
    if encoding.number == audio_pb2.AUDIO_ENCODING_FLAC:
        layout = int.from_bytes(audio[_FLAC_LENGTH], "big") >> _FLAC_LENGTH_BITS << _FLAC_LENGTH_BITS
        return audio[: _FLAC_LENGTH.start] + (layout | samples).to_bytes(8, "big") + audio[_FLAC_LENGTH.stop :]
    return audio


def _wav_data(audio: bytes) -> int:
    """Return where the samples of a WAV file begin."""
    at = _WAV_CHUNKS
    while audio[at : at + 4] != b"data":
        at += 8 + int.from_bytes(audio[at + 4 : at + 8], "little")
    return at + 8
