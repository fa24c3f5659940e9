"""The progress of one utterance: text received, tokens generated, hops sent, audio relayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lighttts.v1 import decode_pb2, llm_pb2
from services.common import tracing
from services.llm import metrics
from services.llm.alignment.monotonic import Aligned
from services.llm.engine.sequence import TokensEvent
from services.llm.stream.hops import HopPlan


@dataclass
class Progress:
    """Used by the utterance's task only. Times are in seconds of `clock`, which is also the engine's."""

    hops: HopPlan
    token_rate: float
    """Speech tokens played per second: the model's own rate times the playback speed."""
    aligns: bool = False
    """Whether the engine aligns this utterance's tokens with the text."""
    clock: Callable[[], float] = time.monotonic
    started_at: float = field(init=False)
    text: list[int] = field(default_factory=list)
    text_complete: bool = False
    submitted_at: float | None = None
    """Time of the submission to the engine."""
    plays_from: float = 0.0
    """Earliest time at which the listener plays the utterance."""
    playback_start: float | None = None
    """Time at which playback of the first sample starts or started; None before the first audio."""
    generated: int = 0
    """Number of speech tokens."""
    unsent: list[int] = field(default_factory=list)
    """Speech tokens that have not been sent to the decode worker."""
    sent: int = 0
    unreported: list[int] = field(default_factory=list)
    """Raw ids that have not been reported to the gateway."""
    unreported_places: list[Aligned] = field(default_factory=list)
    """The text ids of the speech tokens among them, if tokens are aligned."""
    text_position: int | None = None
    """The text id at which the speech is; None if tokens are not aligned."""
    ended: bool = False
    """No more tokens follow."""
    done: llm_pb2.GenerateDone = field(default_factory=llm_pb2.GenerateDone)

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    @property
    def phase(self) -> str:
        """The phase that a cancellation now interrupts, for metrics."""
        if self.submitted_at is None:
            return "text" if self.text else "voice"
        if self.ended:
            return "speaking"
        return "generating" if self.done.first_token else "queued"

    def resume(self, speech_ids: Sequence[int]) -> None:
        """Take over the speech tokens of an earlier run."""
        self.generated = len(speech_ids)
        self.unsent.extend(speech_ids)

    def take(self, event: TokensEvent) -> None:
        if not self.done.first_token and event.raw_ids and self.submitted_at is not None:
            now = self.clock()
            self.done.first_token = now - self.started_at
            metrics.FIRST_TOKEN.observe(now - self.submitted_at)
            tracing.event("first token")
        self.generated += len(event.ids)
        self.unreported.extend(event.raw_ids)
        self.unreported_places.extend(event.aligned)
        self.text_position = event.text_position
        self.unsent.extend(event.ids)
        self.ended = event.last
        if event.last:
            stopped = event.finish_reason == "stop"
            self.done.reason = llm_pb2.GenerateDone.REASON_STOP if stopped else llm_pb2.GenerateDone.REASON_LENGTH
            self.done.speech_tokens = self.generated

    def next_hop(self, prompt_tokens: int) -> list[int] | None:
        """Return the tokens to send once they complete a chunk and its lookahead, or the utterance; else None."""
        if not self.ended and self.generated < self.hops.next(prompt_tokens, self.sent):
            return None
        if not self.done.first_hop:
            self.done.first_hop = self.clock() - self.started_at
        hop, self.unsent = self.unsent, []
        self.sent += len(hop)
        return hop

    def missing(self, prompt_tokens: int) -> int:
        """Return the number of tokens that complete the current chunk and its lookahead."""
        return max(0, self.hops.next(prompt_tokens, self.sent) - self.generated)

    def record_audio(self, decoded: decode_pb2.DecodedAudio) -> llm_pb2.GenerateResponse:
        """Record audio that is relayed next, and return its message."""
        now = self.clock()
        response = llm_pb2.GenerateResponse()
        audio = response.audio  # filled in place: a message as an argument of another one is copied several times
        if self.playback_start is None:
            start = now - decoded.audio.first_sample / max(1, decoded.audio.sample_rate)
            self.playback_start = max(start, self.plays_from)
            done = self.done
            done.first_audio = now - self.started_at
            tracing.event("first audio")
            audio.first.token, audio.first.hop, audio.first.audio = done.first_token, done.first_hop, done.first_audio
        metrics.LEAD.observe(max(0.0, self.playback_start + self.generated / self.token_rate - now))
        audio.audio.CopyFrom(decoded.audio)
        audio.decode_record = decoded.resume_record
        audio.raw_ids.extend(self.unreported)
        audio.tokens_generated = self.generated
        audio.tokens_spoken = decoded.tokens_spoken
        audio.text_ids.extend(place.position for place in self.unreported_places)
        audio.confidences.extend(round(100 * place.confidence) for place in self.unreported_places)
        if self.aligns and self.text_position is not None:
            audio.text_position = self.text_position
        self.unreported.clear()
        self.unreported_places.clear()
        return response
