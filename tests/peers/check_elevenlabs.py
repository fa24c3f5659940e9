"""ElevenLabs' own client, and its plugins for LiveKit Agents and Pipecat, against a gateway:

    python check_elevenlabs.py

They find the gateway by LIGHTTTS_HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import os

import aiohttp
import pytest
from elevenlabs import ElevenLabs, VoiceSettings
from elevenlabs.core import ApiError
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import elevenlabs
from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame, TTSTextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService, ElevenLabsTTSService

HTTP = os.environ["LIGHTTTS_HTTP"]
SENTENCES = ("Good morning, Alice.", "Welcome to London.")
WORDS = " ".join(SENTENCES).split()
LEAST_BYTES = 8000


def check_client() -> None:
    """The client without a WebSocket: its `convert_realtime` connects over TLS only."""
    client = ElevenLabs(base_url=HTTP, api_key="none")
    names = {voice.name: voice.voice_id for voice in client.voices.get_all().voices}
    assert "slt" in names, names
    speak = client.text_to_speech
    text, settings = SENTENCES[0], VoiceSettings(stability=0.5, speed=1.1)
    mp3 = b"".join(speak.convert(names["slt"], text=text, model_id="eleven_multilingual_v2", voice_settings=settings))
    assert mp3[0] == 0xFF
    assert len(b"".join(speak.stream(names["slt"], text=text, output_format="pcm_16000"))) > LEAST_BYTES
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
        assert "slt" in {voice.name for voice in await tts.list_voices()}
        async with tts.synthesize(SENTENCES[0]) as whole:
            assert sum([len(event.frame.data) async for event in whole]) > LEAST_BYTES
        stream = tts.stream()
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
        assert 0.6 * audio < starts[-1] < audio + 0.1, (starts, audio)
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


async def check_pipecat(service: FrameProcessor) -> None:
    listener = Listener()
    task = PipelineTask(Pipeline([service, listener]))
    await task.queue_frames([*map(TTSSpeakFrame, SENTENCES), EndFrame()])
    await PipelineRunner(handle_sigint=False).run(task)
    assert not listener.errors, listener.errors
    assert listener.seconds > 1
    assert [word for text, _ in listener.words for word in text.split()] == WORDS, listener.words
    assert [pts for _, pts in listener.words] == sorted(pts for _, pts in listener.words)


async def main() -> None:
    await asyncio.to_thread(check_client)
    await check_livekit()
    await check_livekit(voice_id="slt", encoding="pcm_24000")
    await check_pipecat(ElevenLabsTTSService(api_key="none", url=HTTP.replace("http", "ws", 1)))
    async with aiohttp.ClientSession() as session:
        settings = ElevenLabsHttpTTSService.Settings(voice="slt")
        service = ElevenLabsHttpTTSService(api_key="none", base_url=HTTP, aiohttp_session=session, settings=settings)
        await check_pipecat(service)


asyncio.run(main())
