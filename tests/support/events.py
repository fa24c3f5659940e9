"""What the events of a stream hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from lighttts.v1 import audio_pb2


def chunks(events: list[Any]) -> list[audio_pb2.AudioChunk]:
    return [event for event in events if isinstance(event, audio_pb2.AudioChunk)]


def samples(events: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the stream's audio, after a check that it is numbered without gap or overlap."""
    position = 0
    for sequence, chunk in enumerate(chunks(events)):
        assert (chunk.sequence, chunk.first_sample) == (sequence, position)
        position += len(chunk.pcm) // 4
    return np.frombuffer(b"".join(chunk.pcm for chunk in chunks(events)), dtype="<f4")
