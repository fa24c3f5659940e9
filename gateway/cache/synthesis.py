"""Speech for a complete text, synthesized or from the result cache. All APIs use it for such requests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from io import BytesIO

from google.protobuf import proto

from gateway import metrics
from gateway.api.native.messages import streaming_response
from gateway.auth import ticket, usage
from gateway.auth.caller import current_caller
from gateway.auth.usage import Outcome
from gateway.cache.key import ResultKey, result_key
from gateway.cache.shared_synthesis import SharedSynthesis
from gateway.cache.speech_cache import SpeechCache
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from gateway.session.output import Event, Events
from gateway.session.session import Session, one_text
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.telemetry import current_request_id

RESULT_FORMAT = 2
"""Number of the form of stored results. The key contains it, because gateways of two versions may share a Redis."""
STORED = (tts_pb2.Started, audio_pb2.AudioChunk, tts_pb2.Spoken, tts_pb2.Warning, tts_pb2.Finished)
"""The events of a result. The other ones concern workers and conversations, and a replay has neither."""


@contextlib.asynccontextmanager
async def speech(
    context: GatewayContext, options: SpeechOptions, text: str, *, start_sample: int = 0
) -> AsyncIterator[Events]:
    """Yield the events of a session for one text, from `start_sample` on. Raises the same errors as Session."""
    options = await context.lexicon.applied(options)
    speech_cache = context.speech_cache
    cacheable = options.seed_given or (speech_cache is not None and speech_cache.any_seed)
    if speech_cache is None or start_sample or len(text) > speech_cache.max_text_chars or not cacheable:
        async with Session(context, options, one_text(text), start_sample=start_sample) as session:
            yield session
        return
    # Before the voice: a caller out of quota must not make encode extract one.
    await ticket.spend(context.quotas)
    async with context.voices.use(options.voice) as voice:
        voice_hash = voice.voice_hash
    model = context.voices.model
    reading = f"{context.settings.interleaved_text} {model.lexicon}"
    generation = f"{RESULT_FORMAT} {speech_cache.generation} {model.model} {reading}"
    scope = "" if speech_cache.shared else current_caller().name
    key = result_key(text, options, voice_hash, generation, scope)
    result = await speech_cache.store.get(key)
    if result is not None:
        metrics.RESULTS.labels("remembered").inc()
        ticket.spent()
        yield _counted(_replay(result), len(text))
        return
    async with contextlib.aclosing(await _join(context, speech_cache, key, options, text)) as events:
        yield events


async def _join(
    context: GatewayContext, speech_cache: SpeechCache, key: ResultKey, options: SpeechOptions, text: str
) -> AsyncGenerator[Event]:
    # Only requests of one caller share a synthesis: an error such as an exceeded quota concerns that caller alone.
    caller_key = (current_caller().name, key)
    shared = speech_cache.shared_syntheses.get(caller_key)
    if shared is not None and shared.open:
        metrics.RESULTS.labels("shared").inc()
        ticket.spent()
        return _counted(_as_own(shared.read()), len(text))

    async def speak(synthesis: SharedSynthesis) -> None:
        # The voice stays in use until the result is stored, so that a deletion meanwhile evicts the result too.
        async with context.voices.use(options.voice):
            async with Session(context, options, one_text(text)) as session:
                await synthesis.fill(session)
            await speech_cache.store.put(key, _dump(synthesis.events))  # only complete speech

    def end(synthesis: SharedSynthesis) -> None:
        if speech_cache.shared_syntheses.get(caller_key) is synthesis:
            del speech_cache.shared_syntheses[caller_key]

    metrics.RESULTS.labels("spoken").inc()
    shared = speech_cache.shared_syntheses[caller_key] = SharedSynthesis(speak, end)
    return shared.read()


async def _as_own(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """Yield the events of a synthesis that another request has begun, with this request's id."""
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, tts_pb2.Started):
                own = tts_pb2.Started()
                own.CopyFrom(event)  # the other readers get the same event
                own.request_id = current_request_id()
                yield own
            else:
                yield event


async def _counted(events: AsyncGenerator[Event], characters: int) -> AsyncGenerator[Event]:
    """Yield the events of an answer without a session of its own, and record it as used."""
    seconds = 0.0
    outcome: Outcome = "cancelled"
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, tts_pb2.Finished):
                    seconds, outcome = event.audio_seconds, "finished"
                yield event
    except Exception:
        outcome = "failed"
        raise
    finally:
        usage.record(characters=characters, audio_seconds=seconds, outcome=outcome, cached=True)


def _dump(events: list[Event]) -> bytes:
    out = BytesIO()
    for event in events:
        if isinstance(event, STORED):
            proto.serialize_length_prefixed(streaming_response(event), out)
    return out.getvalue()


async def _replay(result: bytes) -> AsyncGenerator[Event]:
    """Yield stored events with this request's own id and times."""
    begun = time.monotonic()
    first: float | None = None
    source = BytesIO(result)
    while (response := proto.parse_length_prefixed(tts_pb2.StreamingSynthesizeResponse, source)) is not None:
        match response.WhichOneof("event"):
            case "started":
                response.started.request_id = current_request_id()
                yield response.started
            case "audio":
                first = time.monotonic() - begun if first is None else first
                yield response.audio
            case "spoken":
                yield response.spoken
            case "warning":
                yield response.warning
            case "finished":
                finished = response.finished
                finished.time_to_first_audio = first or 0.0
                finished.real_time_factor = finished.underrun_seconds = 0.0
                for field in ("first_audio", "decode_workers"):  # no worker was used
                    finished.ClearField(field)
                yield finished
