"""What the engine tells a stream's caller, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.engine.shell import FailedEvent
from services.decode.engine.backends import BackendCounts, Samples


@dataclass(frozen=True, eq=False)
class AudioEvent:
    """Audio of one hop. Events of a stream join without gap: each begins at the sample after the one before."""

    first_sample: int
    """Absolute sample in the utterance, 0 being its first."""
    samples: Samples = field(repr=False)
    """float32 [n], within -0.99 … 0.99; empty only in the last event of a stream that had nothing left to say."""
    resume: bytes = field(repr=False)
    """Another worker continues after this audio from here (`StreamSpec.resume`)."""
    tokens_spoken: int
    """Generated tokens that the audio so far speaks."""
    last: bool


Event = AudioEvent | FailedEvent
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class EngineStats:
    """The engine after its latest turn."""

    streams: int = 0
    queued: int = 0
    """Streams that wait for their first audio, tokens given."""
    queued_offline: int = 0
    """Of those, nobody listens to."""
    ready: int = 0
    """Hops that could have run at the latest turn."""
    batch_size: int = 0
    """Hops in the latest batch; 0 when there was nothing to run."""
    state_bytes: int = 0
    batches: int = 0
    hops: int = 0
    tokens_decoded: int = 0
    samples: int = 0
    busy_s: float = 0.0
    """Seconds spent in batches since the start."""
    underruns: int = 0
    """Times a listener ran out of audio, by the wall clock or their own reports."""
    underrun_s: float = 0.0
    evictions: int = 0
    evicted_bytes: int = 0
    offline: int = 0
    """Streams nobody listens to while they are made."""
    oldest_s: float = 0.0
    """How long the queued stream that has waited longest has, among those somebody listens to."""
    oldest_offline_s: float = 0.0
    backend: BackendCounts = field(default_factory=BackendCounts)
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Observer:
    """Is told what happens, from the engine's thread; this one does nothing with it."""

    def batch(self, size: int, seconds: float) -> None:
        """A batch of `size` hops ran."""

    def first_audio(self, seconds: float) -> None:
        """A stream gave its first audio so long after it was opened."""

    def lead(self, seconds: float) -> None:
        """A playing stream had so much audio left when the next came."""
