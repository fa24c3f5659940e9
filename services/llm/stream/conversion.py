"""Voice conversion: an utterance whose speech tokens are given, so that only the decode stage has work."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from lighttts.v1 import audio_pb2, decode_pb2, llm_pb2
from services.common.engine.event_queue import background
from services.common.errors import InvalidInput, Overloaded
from services.common.voices.voice import Voice
from services.llm.stream import decode_client as decoding
from services.llm.stream.generate_call import GenerateCall, LlmServiceContext


class ConversionCall(GenerateCall):
    """One `Generate` call with `start.speech_tokens`: voice in, audio out, no text and no engine."""

    def __init__(self, stage: LlmServiceContext, start: llm_pb2.GenerateStart) -> None:
        """Raises InvalidInput for ids out of range and for what goes with text alone."""
        super().__init__(stage, start)
        if start.HasField("text"):
            raise InvalidInput("speech tokens are to be spoken, so no text may come with them", field="start.text")
        bound = stage.model.llm.speech_tokens
        wrong = next((token for token in start.speech_tokens if not 0 <= token < bound), None)
        if wrong is not None:
            raise InvalidInput(
                f"speech token {wrong} is out of range; this model's go from 0 to {bound - 1}",
                field="start.speech_tokens",
            )
        longest = int(stage.settings.max_seconds * stage.model.token_rate)
        if len(start.speech_tokens) > longest:
            raise InvalidInput(
                f"{len(start.speech_tokens)} speech tokens are too many; send at most {longest}",
                field="start.speech_tokens",
            )

    async def _serve(self) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        voices, voice_hash = self._stage.voices, self._start.voice_hash
        if voice_hash not in voices:
            yield llm_pb2.GenerateResponse(need_voice=audio_pb2.NeedVoice(voice_hash=voice_hash))
            async for beat in self._receive(lambda: voice_hash in voices):
                yield beat
        self._progress.text_complete = True
        with voices.lease(voice_hash) as voice:
            if voice is None:
                raise Overloaded("the voice cache is full of voices in use; try again shortly")
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
        async with background(self._relay(decode), self._mailbox):
            while not spoken:
                event = await self._take()
                if isinstance(event, decode_pb2.DecodedAudio):
                    yield llm_pb2.GenerateResponse(audio=progress.heard(event))
                    spoken = event.audio.last
                elif isinstance(event, decoding.Started | decoding.Moved):
                    yield self._news(event)
                elif isinstance(event, audio_pb2.PlaybackPosition):
                    decode.report_position(event.seconds)
                elif isinstance(event, llm_pb2.TextTokens):
                    raise InvalidInput("speech tokens are to be spoken, so no text may follow", field="text")
                elif event is None:
                    yield self._heartbeat()
        progress.done.reason = llm_pb2.GenerateDone.REASON_STOP
        progress.done.speech_tokens = progress.generated
        yield llm_pb2.GenerateResponse(done=progress.done)
