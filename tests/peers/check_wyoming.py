"""wyoming-openai, the bridge of Home Assistant's voice protocol, against a running gateway:

    python check_wyoming.py HTTP_URL

It runs as a process that listens on a Unix socket; Wyoming's own client talks to it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

TEXTS = ("Good morning, Alice. ", "Welcome to ", "London.")
LIMIT_SECONDS = 60
FOLDER = Path.cwd()


@asynccontextmanager
async def bridge(url: str, name: str, *options: str) -> AsyncIterator[AsyncClient]:
    """The bridge in front of the gateway at `url`, and a client of it."""
    socket = FOLDER / f"{name}.socket"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wyoming_openai", "--uri", f"unix://{socket}", "--tts-openai-url", f"{url}/v1"),
        *options,
    )
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                assert process.returncode is None, "the bridge has ended"
                client = AsyncClient.from_uri(f"unix://{socket}")
                try:
                    await client.connect()
                    break
                except OSError:  # it does not listen yet
                    await asyncio.sleep(0.05)
            yield client
            await client.disconnect()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def voices(client: AsyncClient) -> list[str]:
    await client.write_event(Describe().event())
    answer = await client.read_event()
    assert answer is not None
    assert Info.is_type(answer.type), answer
    return [voice.name for program in Info.from_event(answer).tts for voice in program.voices]


async def spoken(client: AsyncClient, events: Iterable[Event], last: str) -> int:
    """Bytes of audio of one synthesis, whose last event has the type `last`."""
    for event in events:
        await client.write_event(event)
    audio, rates = 0, set()
    while True:
        event = await client.read_event()
        assert event is not None
        assert not Error.is_type(event.type), event
        if AudioStart.is_type(event.type):
            rates.add(AudioStart.from_event(event).rate)
        if AudioChunk.is_type(event.type):
            audio += len(AudioChunk.from_event(event).audio)
        if event.type == last:
            assert rates == {24000}, rates
            return audio


def streamed(voice: str) -> list[Event]:
    begin = SynthesizeStart(voice=SynthesizeVoice(name=voice)).event()
    return [begin, *(SynthesizeChunk(text).event() for text in TEXTS), SynthesizeStop().event()]


async def main(url: str) -> None:
    stopped, stop = SynthesizeStopped().event().type, AudioStop().event().type
    # As its guide shows it: OpenAI's voices, whole texts and a stream of words.
    models = ("--tts-models", "tts-1", "--tts-streaming-models", "gpt-4o-mini-tts")
    async with bridge(url, "plain", *models, "--tts-instructions", "Speak in a calm voice.") as client:
        listed = await voices(client)
        assert "alloy" in " ".join(listed), listed
        assert await spoken(client, [Synthesize(TEXTS[0]).event()], stop) > 24000
        assert await spoken(client, streamed(next(name for name in listed if "gpt-4o" in name)), stopped) > 48000
    # As for a server of the kind of Kokoro-FastAPI, which lists its voices.
    async with bridge(url, "listed", "--tts-models", "tts-1", "--tts-backend", "KOKORO_FASTAPI") as client:
        listed = await voices(client)
        assert {"anna", "hugo"} <= set(listed), listed
        named = Synthesize(TEXTS[0], voice=SynthesizeVoice(name="anna")).event()
        assert await spoken(client, [named], stop) > 24000


asyncio.run(main(sys.argv[1]))
