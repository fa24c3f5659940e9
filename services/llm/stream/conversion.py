"""Voice conversion: an utterance with given speech tokens, which only the decode workers process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2
from services.common.engine.event_queue import background
from services.common.errors import InvalidInput, Overloaded
from services.common.voices.voice import Voice
from services.llm.stream import decode_client, requests
from services.llm.stream.generate_call import GenerateCall, LlmServiceContext


class ConversionCall(GenerateCall):
    """One `Generate` call with `start.speech_tokens`: voice in, audio out, no text and no engine."""

    def __init__(self, context: LlmServiceContext, start: llm_pb2.GenerateStart) -> None:
        """Raises InvalidInput for text, for ids out of range and for too many ids."""
        super().__init__(context, start)
        if start.HasField("text"):
            raise InvalidInput("a request with speech_tokens takes no text; send one of them", field="start.text")
        bound = context.model.llm.speech_tokens
        wrong = next((token for token in start.speech_tokens if not 0 <= token < bound), None)
        if wrong is not None:
            raise InvalidInput(
                f"speech token {wrong} is out of range; this model has tokens from 0 to {bound - 1}",
                field="start.speech_tokens",
            )
        longest = int(context.settings.max_seconds * context.model.token_rate)
        if len(start.speech_tokens) > longest:
            raise InvalidInput(
                f"{len(start.speech_tokens)} speech tokens are too many; send at most {longest}",
                field="start.speech_tokens",
            )

    async def _serve(self) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        voices, voice_hash = self._context.voices, self._start.voice_hash
        if voice_hash not in voices:
            yield llm_pb2.GenerateResponse(need_voice=audio_pb2.NeedVoice(voice_hash=voice_hash))
            async for heartbeat in self._collect(self._has_voice):
                yield heartbeat
        self._progress.text_complete = True
        with voices.lease(voice_hash) as voice:
            if voice is None:
                raise Overloaded("the llm's voice cache is full of voices in use; try again shortly", stage="llm")
            async with aclosing(self._relay_all(voice)) as responses:
                async for response in responses:
                    yield response

    async def _relay_all(self, voice: Voice) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        progress = self._progress
        decode = self._decode_stream(voice)
        decode.push(self._start.speech_tokens, last=True)
        progress.generated = progress.sent = len(self._start.speech_tokens)
        progress.ended = True
        spoken = False
        async with background(self._relay(decode), self._events):
            while not spoken:
                event = await self._next_event()
                if isinstance(event, decode_pb2.DecodedAudio):
                    yield progress.record_audio(event)
                    spoken = event.audio.last
                elif isinstance(event, decode_client.Started | decode_client.Moved):
                    yield self._started(event)
                elif isinstance(event, audio_pb2.PlaybackPosition):
                    requests.check_position(event.seconds)
                    decode.report_position(event.seconds)
                elif isinstance(event, llm_pb2.TextTokens):
                    raise InvalidInput("a request with speech_tokens takes no text; send one of them", field="text")
                elif event is None:
                    yield self._heartbeat()
        progress.done.reason = llm_pb2.GenerateDone.REASON_STOP
        progress.done.speech_tokens = progress.generated
        yield llm_pb2.GenerateResponse(done=progress.done)
