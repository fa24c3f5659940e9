"""The events of a stream, the statistics of the engine, and the interface for its observers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.engine.shell import FailedEvent
from services.decode.engine.backends import BackendCounts, Samples


@dataclass(frozen=True, eq=False)
class AudioEvent:
    """Audio of one hop. A stream's events join without gaps: each starts at the sample after the previous one."""

    first_sample: int
    """Absolute sample in the utterance; the first one is 0."""
    samples: Samples = field(repr=False)
    """float32 [n], within -0.99 … 0.99; empty only in the last event of a stream without further audio."""
    resume: bytes = field(repr=False)
    """From this record another worker continues after this audio (`StreamSpec.resume`)."""
    tokens_spoken: int
    """Number of generated tokens spoken in the audio so far."""
    last: bool


Event = AudioEvent | FailedEvent
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class EngineStats:
    """The engine's state, and its counters since the start."""

    streams: int = 0
    queued: int = 0
    """Streams that have tokens and wait for their first audio."""
    queued_offline: int = 0
    """Offline streams among them."""
    ready: int = 0
    """Hops that could run at the latest turn."""
    batch_size: int = 0
    """Hops in the latest batch; 0 if there was nothing to run."""
    state_bytes: int = 0
    batches: int = 0
    hops: int = 0
    tokens_decoded: int = 0
    samples: int = 0
    busy_s: float = 0.0
    """Seconds spent in batches since the start."""
    underruns: int = 0
    """Times a listener ran out of audio, by the clock or by reported playback positions."""
    underrun_s: float = 0.0
    evictions: int = 0
    evicted_bytes: int = 0
    offline: int = 0
    """Offline streams."""
    oldest_s: float = 0.0
    """Longest wait of a queued interactive stream."""
    oldest_offline_s: float = 0.0
    backend: BackendCounts = field(default_factory=BackendCounts)
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Observer:
    """Callback interface, called from the engine thread; the base class does nothing."""

    def batch(self, size: int, seconds: float) -> None:
        """A batch of `size` hops ran for `seconds`."""

    def first_audio(self, seconds: float) -> None:
        """A stream's first audio was ready `seconds` after the stream was opened."""

    def lead(self, seconds: float) -> None:
        """A playing stream had `seconds` of audio left when its next audio was ready."""
