"""An utterance as data: what llm workers were sent and what they returned. Any worker can continue from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.audio.samples import FLOAT_BYTES
from gateway.utterance.words import UtteranceWords
from lighttts.v1 import audio_pb2, llm_pb2, voice_pb2
from services.common.workers.failover import LossReason, WorkerLost

LEAST_TARGET_SECONDS = 0.5
"""A worker's own target for first audio is about this short; a listener with less audio left needs that one."""


@dataclass
class UtteranceState:
    """Kept by the gateway from the first text to the last sample; about 15 kB plus the text."""

    start: llm_pb2.GenerateStart
    """As the first worker receives it."""
    voice: voice_pb2.VoiceContent
    place: audio_pb2.SessionPlace
    """The session's place at the workers; all utterances of a session share this message."""
    lead: Callable[[], float] = float
    """Returns the seconds until the listener has played all audio before this utterance; 0 by default."""
    texts: list[llm_pb2.TextTokens] = field(default_factory=list)
    position: float = 0.0
    """Seconds of this utterance that the listener has played."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when text, position or the voice has to be sent."""
    raw_ids: list[int] = field(default_factory=list)
    """Ids that the model generated, as far as `samples` depend on them."""
    words: UtteranceWords = field(default_factory=UtteranceWords)
    samples: int = 0
    """Samples received so far, each counted once."""
    complete: bool = False
    """Whether the last sample was received."""
    origin: bytes = b""
    """Version and weights of `raw_ids`, as the worker named them that accepted the utterance."""
    _resume_record: bytes = b""

    def add_text(self, ids: Sequence[int], *, last: bool) -> None:
        """Add text tokens; `last` ends the utterance."""
        self.texts.append(llm_pb2.TextTokens(ids=ids, last=last))
        self.changed.set()

    def report_position(self, seconds: float) -> None:
        self.position = max(self.position, seconds)
        self.changed.set()

    def start_message(self) -> llm_pb2.GenerateStart:
        """Return the next worker's first message: the start or the resume state, with the first of `texts` if any."""
        start = llm_pb2.GenerateStart()
        start.CopyFrom(self.start)
        start.place.CopyFrom(self.place)
        if self.texts:
            start.text.CopyFrom(self.texts[0])
        if self.samples:
            resume = llm_pb2.GenerateResume(
                raw_ids=self.raw_ids,
                decode_record=self._resume_record,
                next_sample=self.samples,
                origin=self.origin,
                text_position=self.words.text_position if self.words.aligned else None,
            )
            start.resume.CopyFrom(resume)
        elif (target := self.lead()) > LEAST_TARGET_SECONDS:
            start.urgency.first_audio_target = target  # the utterance yields to others while earlier audio plays
        return start

    def restart(self) -> None:
        """Drop what was received: the next worker starts the utterance from its beginning."""
        self.raw_ids, self.samples, self._resume_record, self.origin = [], 0, b"", b""
        self.words.restart()

    def add_audio(self, generated: llm_pb2.GeneratedAudio) -> bytes:
        """Record received audio and return its new part (float32 samples): a worker that resumes may repeat some.

        Raises WorkerLost if samples are missing, including when the final message comes too early.
        """
        audio = generated.audio
        pcm = audio.pcm  # each access copies it
        known = self.samples - audio.first_sample
        if known < 0 or len(pcm) % FLOAT_BYTES:
            raise WorkerLost(LossReason.BROKE_PROTOCOL, f"an llm worker skipped {-known} samples")
        if audio.last and generated.tokens_spoken != generated.tokens_generated:
            reason = f"an llm worker ended after {generated.tokens_spoken} of {generated.tokens_generated} tokens"
            raise WorkerLost(LossReason.BROKE_PROTOCOL, reason)
        pcm = pcm[known * FLOAT_BYTES :]
        self.samples += len(pcm) // FLOAT_BYTES
        self.raw_ids.extend(generated.raw_ids)
        self.words.add_tokens(generated)
        self._resume_record = generated.decode_record
        self.complete = self.complete or audio.last
        return pcm
