"""ElevenLabs' own client, and its plugins for LiveKit Agents and Pipecat, against a gateway:

    python check_elevenlabs.py [realtime]

`realtime`: only the client's WebSocket, which it opens over TLS alone. They find the gateway by LIGHTTTS_HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys

import aiohttp
import pytest
from elevenlabs import ElevenLabs, VoiceSettings
from elevenlabs.core import ApiError
from livekit.agents import APIConnectOptions
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import elevenlabs
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService, ElevenLabsTTSService
from pipecat.services.tts_service import TextAggregationMode

HTTP = os.environ["LIGHTTTS_HTTP"]
SENTENCES = ("Good morning, Alice.", "Welcome to London.")
WORDS = " ".join(SENTENCES).split()
LEAST_BYTES = 8000
PATIENCE = 60.0
"""Seconds without audio that a client tolerates: this machine may have much else to do."""


def check_realtime() -> None:
    client = ElevenLabs(base_url=HTTP, api_key=os.environ["LIGHTTTS_API_KEY"])
    speak = client.text_to_speech.convert_realtime
    words = (f"{word} " for word in WORDS)
    settings = VoiceSettings(stability=0.5, similarity_boost=0.5)
    audio = b"".join(speak("anna", text=words, model_id="eleven_flash_v2_5", voice_settings=settings))
    assert audio[:3] == b"ID3"
    pcm = b"".join(speak("anna", text=iter(WORDS), model_id="eleven_flash_v2_5", output_format="pcm_24000"))
    assert len(pcm) > LEAST_BYTES
    with pytest.raises(ApiError) as refusal:
        list(speak("nobody", text=iter(WORDS), model_id="eleven_flash_v2_5"))
    # The client has the last frame if it read it before it found the socket closed, else the close's reason.
    body = refusal.value.body
    said = body if isinstance(body, str) else body["message"]
    assert "no voice 'nobody'" in said, body


def check_client() -> None:
    client = ElevenLabs(base_url=HTTP, api_key="none")
    names = {voice.name: voice.voice_id for voice in client.voices.get_all().voices}
    assert "anna" in names, names
    speak = client.text_to_speech
    text, settings = SENTENCES[0], VoiceSettings(stability=0.5, speed=1.1)
    mp3 = b"".join(speak.convert(names["anna"], text=text, model_id="eleven_multilingual_v2", voice_settings=settings))
    assert mp3[:3] == b"ID3"
    assert len(b"".join(speak.stream(names["anna"], text=text, output_format="pcm_16000"))) > LEAST_BYTES
    parts = list(speak.stream_with_timestamps("JBFqnCBsd6RMkjVDRZzb", text=text, output_format="pcm_24000"))
    audio = b"".join(base64.b64decode(part.audio_base_64) for part in parts)
    found = [part.alignment for part in parts if part.alignment]
    assert "".join("".join(each.characters) for each in found) == text
    assert abs(found[-1].character_end_times_seconds[-1] - len(audio) / 2 / 24000) < 0.01
    with pytest.raises(ApiError) as refusal:
        list(speak.convert("nobody", text=text))
    assert (refusal.value.status_code, refusal.value.body["detail"]["status"]) == (404, "voice_not_found")


async def check_livekit(**options: str) -> None:
    async with aiohttp.ClientSession() as session:
        tts = elevenlabs.TTS(base_url=f"{HTTP}/v1", api_key="none", http_session=session, **options)
        assert "anna" in {voice.name for voice in await tts.list_voices()}
        patient = APIConnectOptions(timeout=PATIENCE)
        async with tts.synthesize(SENTENCES[0], conn_options=patient) as whole:
            assert sum([len(event.frame.data) async for event in whole]) > LEAST_BYTES
        stream = tts.stream(conn_options=patient)
        for sentence in SENTENCES:
            stream.push_text(sentence + " ")
        stream.end_input()
        events = [event async for event in stream]
        await stream.aclose()
        audio = sum(event.frame.duration for event in events)
        words = [word for event in events for word in event.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])]
        assert "".join(words).split() == WORDS, words
        starts = [word.start_time for word in words]
        assert starts == sorted(starts), "of the whole stream, not of its sentences"
        assert 0.3 * audio < starts[-1] < audio + 0.1, (starts, audio)
        await tts.aclose()


class Listener(FrameProcessor):
    """Notes the audio and the words that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.words: list[tuple[str, int]] = []
        self.errors: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case TTSAudioRawFrame():
                self.seconds += len(frame.audio) / 2 / frame.sample_rate
            case TTSTextFrame():
                self.words.append((frame.text, frame.pts or 0))
            case ErrorFrame():
                self.errors.append(str(frame))
        await self.push_frame(frame, direction)


ALONE = [*map(TTSSpeakFrame, SENTENCES)]
TURN = [
    LLMFullResponseStartFrame(),
    *(LLMTextFrame(word + " ") for word in WORDS[:-1]),
    LLMTextFrame(WORDS[-1]),
    LLMFullResponseEndFrame(),
]
"""An answer of a language model: one context with several sentences."""


async def check_pipecat(service: FrameProcessor, frames: list[Frame]) -> None:
    listener = Listener()
    task = PipelineTask(Pipeline([service, listener]))
    await task.queue_frames([*frames, EndFrame()])
    await PipelineRunner(handle_sigint=False).run(task)
    assert not listener.errors, listener.errors
    assert listener.seconds > 1
    assert [word for text, _ in listener.words for word in text.split()] == WORDS, listener.words
    times = [pts for _, pts in listener.words]
    assert times == sorted(times)
    assert len(set(times)) > len(times) / 2, "words without times come at the end, all at once"


async def main() -> None:
    await asyncio.to_thread(check_client)
    await check_livekit()
    await check_livekit(voice_id="anna", encoding="opus_48000_64")
    url = HTTP.replace("http", "ws", 1)
    options = {"api_key": "none", "url": url, "stop_frame_timeout_s": PATIENCE}
    await check_pipecat(ElevenLabsTTSService(**options), ALONE)
    await check_pipecat(ElevenLabsTTSService(**options), TURN)
    by_token = ElevenLabsTTSService(**options, text_aggregation_mode=TextAggregationMode.TOKEN)
    await check_pipecat(by_token, TURN)
    async with aiohttp.ClientSession() as session:
        settings = ElevenLabsHttpTTSService.Settings(voice="anna")
        options = {"api_key": "none", "base_url": HTTP, "stop_frame_timeout_s": PATIENCE}
        service = ElevenLabsHttpTTSService(**options, aiohttp_session=session, settings=settings)
        await check_pipecat(service, ALONE)


if sys.argv[1:] == ["realtime"]:
    check_realtime()
else:
    asyncio.run(main())
