"""An utterance as data: what was asked of the llm stage and what came of it. Any worker can go on from here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.audio.samples import FLOAT_BYTES
from lighttts.v1 import llm_pb2, voice_pb2
from services.common.workers.failover import LossReason, WorkerLost


@dataclass
class UtteranceState:
    """Kept by the gateway from the first word to the last sample; about 15 kB beside the text."""

    start: llm_pb2.GenerateStart
    """As the first worker gets it."""
    voice: voice_pb2.VoiceContent
    texts: list[llm_pb2.TextTokens] = field(default_factory=list)
    position: float = 0.0
    """Seconds of this utterance that the listener has played."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when text, position or the voice has to go out."""
    raw_ids: list[int] = field(default_factory=list)
    """What the model generated, as far as the samples below need it."""
    samples: int = 0
    """Received so far, each once."""
    complete: bool = False
    """The last sample was received."""
    _decode_record: bytes = b""

    def say(self, ids: Sequence[int], *, last: bool) -> None:
        """Adds text tokens; `last` ends the utterance."""
        self.texts.append(llm_pb2.TextTokens(ids=ids, last=last))
        self.changed.set()

    def report_position(self, seconds: float) -> None:
        self.position = max(self.position, seconds)
        self.changed.set()

    def opening(self) -> llm_pb2.GenerateStart:
        """What the next worker gets first: the start or where to go on, with the first of `texts` if there is one."""
        start = llm_pb2.GenerateStart()
        start.CopyFrom(self.start)
        if self.texts:
            start.text.CopyFrom(self.texts[0])
        if self.samples:
            resume = llm_pb2.GenerateResume(
                raw_ids=self.raw_ids, decode_record=self._decode_record, next_sample=self.samples
            )
            start.resume.CopyFrom(resume)
        return start

    def take(self, generated: llm_pb2.GeneratedAudio) -> bytes:
        """Notes audio and returns what of it is new (float32 samples): a worker that goes on may repeat some.

        Raises WorkerLost when samples are missing, also at what calls itself the end.
        """
        audio = generated.audio
        known = self.samples - audio.first_sample
        if known < 0 or len(audio.pcm) % FLOAT_BYTES:
            raise WorkerLost(LossReason.BROKE_PROTOCOL, f"an llm worker skipped {-known} samples")
        if audio.last and generated.tokens_spoken != generated.tokens_generated:
            said = f"an llm worker called {generated.tokens_spoken} tokens the end of {generated.tokens_generated}"
            raise WorkerLost(LossReason.BROKE_PROTOCOL, said)
        pcm = audio.pcm[known * FLOAT_BYTES :]
        self.samples += len(pcm) // FLOAT_BYTES
        self.raw_ids.extend(generated.raw_ids)
        self._decode_record = generated.decode_record
        self.complete = self.complete or audio.last
        return pcm
