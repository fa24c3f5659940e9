"""A note in audio files that their speech is synthetic, for the formats that have a place for one."""

from __future__ import annotations

import struct

SOFTWARE = "light-tts"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""Of the IPTC's vocabulary DigitalSourceType, which C2PA and XMP use too."""
NOTICE = f"synthetic speech; DigitalSourceType {SOURCE_TYPE}"
_UTF8 = b"\x03"
_ENGLISH = b"eng"


def riff_info() -> bytes:
    """Return a LIST chunk of WAV with the note (RIFF, INFO)."""
    fields = _riff_text(b"ISFT", SOFTWARE) + _riff_text(b"ICMT", NOTICE)
    return struct.pack("<4sI4s", b"LIST", 4 + len(fields), b"INFO") + fields


def id3_tag() -> bytes:
    """Return an ID3v2.4 tag with the note, which stands before the first frame of an MP3.

    libsndfile appends the note as ID3v1 instead, where a listener of a stream gets it last, and 30 characters of it.
    """
    comment = _id3_frame(b"COMM", _UTF8 + _ENGLISH + b"\0" + NOTICE.encode())
    frames = _id3_frame(b"TSSE", _UTF8 + SOFTWARE.encode()) + comment
    return struct.pack(">3sBBB4s", b"ID3", 4, 0, 0, _syncsafe(len(frames))) + frames


def _riff_text(name: bytes, text: str) -> bytes:
    value = text.encode() + b"\0"
    return struct.pack("<4sI", name, len(value)) + value + b"\0" * (len(value) % 2)


def _id3_frame(name: bytes, content: bytes) -> bytes:
    return name + _syncsafe(len(content)) + b"\0\0" + content


def _syncsafe(number: int) -> bytes:
    """Return `number` in four bytes of 7 bits."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))
