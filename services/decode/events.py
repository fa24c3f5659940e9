"""What the engine tells a stream's caller, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.decode.backends import Samples


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


@dataclass(frozen=True)
class FailedEvent:
    """The stream ended without its audio. A StreamError is the caller's to mend, anything else is a defect."""

    error: Exception


Event = AudioEvent | FailedEvent
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class EngineStats:
    """The engine after its latest turn."""

    streams: int = 0
    queued: int = 0
    """Streams that wait for their first audio, tokens given."""
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
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
