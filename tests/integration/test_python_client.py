"""The Python client: speech over broken connections, retries, conversations, voices and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

import lighttts_client as sdk
from lighttts.v1 import audio_pb2, tts_pb2
from lighttts_client import AsyncClient, AudioOutput, Client, Retry, SynthesisConfig
from services.common.errors import Overloaded
from tests.faults.proxy import Proxy
from tests.support.fake_encode import SAMPLE_RATE
from tests.support.fake_stages import SAMPLES_PER_ID, Rig, Script, rig

TEXT = "Hello there, big world. And more words."
CONFIG = SynthesisConfig(
    word_times=True,
    audio=AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE, keep_leading_silence=True),
)
PATIENT = Retry(attempts=10_000)
"""The channel may need any number of attempts until it has connected again."""
Words = list[tuple[int, int, int]]


class Waits(list[float]):
    """The waits between attempts; a wait takes a moment only."""

    async def sleep(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(r: Rig, retry: Retry | None = None) -> AsyncIterator[tuple[AsyncClient, Waits]]:
    waits = Waits()
    async with AsyncClient(r.server.address, retry=retry, sleep=waits.sleep) as client:
        yield client, waits


def words_of(chunks: list[sdk.AudioChunk]) -> Words:
    return [(w.text_offset, w.first_sample, w.samples) for chunk in chunks for w in chunk.words if not w.open]


def opened(chunks: list[sdk.AudioChunk]) -> list[int]:
    return [word.text_offset for chunk in chunks for word in chunk.words if word.open]


async def uninterrupted(r: Rig, seed: int) -> tuple[bytes, Words]:
    async with client_of(r) as (client, _):
        config = SynthesisConfig(seed=seed)
        config.MergeFrom(CONFIG)
        chunks = [chunk async for chunk in client.speak(TEXT, config)]
        return b"".join(chunk.pcm for chunk in chunks), words_of(chunks)


def check_numbers(chunks: list[sdk.AudioChunk]) -> None:
    position = 0
    for sequence, chunk in enumerate(chunks):
        assert (chunk.sequence, chunk.first_sample) == (sequence, position)
        position += len(chunk.pcm) // 4


async def test_a_speech_has_its_audio_words_warnings_and_figures() -> None:
    async with rig() as r, client_of(r) as (client, waits):
        r.llm.aligns = True
        speech = client.speak(TEXT, CONFIG)
        chunks = [chunk async for chunk in speech]
        check_numbers(chunks)
        assert len(words_of(chunks)) == 7
        assert speech.samples == len(TEXT) * SAMPLES_PER_ID
        assert speech.sample_rate == SAMPLE_RATE
        assert speech.warnings == ["a bit quiet"]
        assert speech.finished is not None
        assert speech.finished.audio_seconds == pytest.approx(speech.samples / SAMPLE_RATE)
        assert (speech.resumes, waits) == (0, [])
        assert await client.speak("One.", SynthesisConfig(seed=1)).read()


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_a_broken_connection_is_resumed_without_a_lost_or_repeated_sample(kind: str) -> None:
    """The gateway chooses the seed, so the second call must name it."""
    async with rig() as r, Proxy(int(r.server.address.rpartition(":")[2])) as proxy:
        r.llm.aligns = True
        r.llm.scripts[0] = Script(hold={3: asyncio.Event()})  # the speech cannot end before the connection does
        address, waits = f"127.0.0.1:{proxy.port}", Waits()
        chunks: list[sdk.AudioChunk] = []
        if kind == "async":
            async with AsyncClient(address, retry=PATIENT, sleep=waits.sleep) as client:
                speech = client.speak(TEXT, CONFIG)
                async for chunk in speech:
                    chunks.append(chunk)
                    if len(chunks) == 1:
                        proxy.reset()
            resumes, started = speech.resumes, speech.started
        else:
            loop = asyncio.get_running_loop()

            def read() -> tuple[int, sdk.Started | None]:
                def sleep(seconds: float) -> None:
                    asyncio.run_coroutine_threadsafe(waits.sleep(seconds), loop).result()

                with Client(address, retry=PATIENT, sleep=sleep) as client:
                    speech = client.speak(TEXT, CONFIG)
                    for chunk in speech:
                        chunks.append(chunk)
                        if len(chunks) == 1:
                            loop.call_soon_threadsafe(proxy.reset)
                    return speech.resumes, speech.started

            resumes, started = await asyncio.to_thread(read)
        assert resumes >= 1
        assert len(waits) == resumes
        check_numbers(chunks)
        assert started is not None
        pcm, words = await uninterrupted(r, started.seed)
        assert b"".join(chunk.pcm for chunk in chunks) == pcm
        assert words_of(chunks) == words
        assert len(set(opened(chunks))) == len(opened(chunks)), "a word begins once"


async def test_a_file_format_is_not_resumed() -> None:
    async with rig() as r, Proxy(int(r.server.address.rpartition(":")[2])) as proxy:
        r.llm.scripts[0] = Script(hold={3: asyncio.Event()})
        waits = Waits()
        async with AsyncClient(f"127.0.0.1:{proxy.port}", sleep=waits.sleep) as client:
            config = SynthesisConfig(audio=AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_WAV))

            async def read() -> None:
                async for _ in client.speak(TEXT, config):
                    proxy.reset()

            with pytest.raises(sdk.ConnectionLost):
                await read()
        assert waits == []


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_a_refused_request_waits_as_long_as_the_gateway_says(kind: str) -> None:
    async with rig() as r:
        r.llm.scripts = {number: Script(refusal=Overloaded("full", stage="llm")) for number in range(2)}
        waits: list[float] = []
        if kind == "async":
            async with client_of(r) as (client, noted):
                assert await client.speak("One.").read()
                waits = noted
        else:
            with Client(r.server.address, sleep=waits.append) as threads:
                assert await asyncio.to_thread(threads.speak("One.").read)
        assert waits == [1.0, 1.0]


async def test_a_hint_beyond_the_longest_wait_and_a_last_attempt_raise_the_refusal() -> None:
    for retry, attempts in ((Retry(longest_delay=0.5), 1), (Retry(attempts=2), 2)):
        async with rig() as r, client_of(r, retry) as (client, waits):
            r.llm.scripts = {number: Script(refusal=Overloaded("full", stage="llm")) for number in range(9)}
            with pytest.raises(sdk.Overloaded, match="full") as caught:
                await client.speak("One.").read()
            assert (caught.value.retry_after, caught.value.reason, len(waits)) == (1.0, "OVERLOADED", attempts - 1)


async def test_the_waits_double_while_no_gateway_answers(unused_tcp_port: int) -> None:
    waits = Waits()
    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}", retry=Retry(attempts=5), sleep=waits.sleep) as client:
        with pytest.raises(sdk.ConnectionLost):
            await client.list_voices()
    assert waits == [0.2, 0.4, 0.8, 1.6]


@pytest.mark.parametrize(
    ("kind", "field", "config", "text"),
    [
        (sdk.InvalidInput, "config.speed", SynthesisConfig(speed=9), "One."),
        (sdk.InvalidInput, "text", SynthesisConfig(), "..."),
        (sdk.NotFound, "config.voice_name", SynthesisConfig(voice_name="nobody"), "One."),
    ],
)
async def test_an_error_has_its_field_and_is_not_retried(
    kind: type[sdk.LightTtsError], field: str, config: SynthesisConfig, text: str
) -> None:
    async with rig() as r, client_of(r) as (client, waits):
        with pytest.raises(kind) as caught:
            await client.speak(text, config).read()
        assert (caught.value.field, waits) == (field, [])
        with Client(r.server.address, sleep=waits.append) as threads, pytest.raises(kind) as caught:
            await asyncio.to_thread(threads.speak(text, config).read)
        assert (caught.value.field, waits) == (field, [])


async def test_a_conversation_has_everything_of_the_stream() -> None:
    async with rig() as r, client_of(r) as (client, _):
        r.llm.aligns = True
        talk = client.conversation(CONFIG)
        for word in TEXT.split():
            talk.text(f"{word} ")
        talk.flush()
        events: list[sdk.Event] = []
        async for event in talk:
            events.append(event)
            match event:
                case sdk.Mark() if event.flush == 0:
                    talk.position(len("Hello there, b") * SAMPLES_PER_ID / SAMPLE_RATE)
                    talk.cancel()
                case sdk.Spoken() if event.cut:
                    assert TEXT[: event.text_offset] == "Hello there"
                    talk.configure(SynthesisConfig(voice_name="anna"))
                    talk.text("Two.")
                    talk.end()
        assert [type(event) for event in events].count(sdk.Configured) == 1
        assert isinstance(events[0], sdk.Started)
        assert isinstance(events[-1], sdk.Finished)
        assert talk.finished == events[-1]
        assert r.llm.calls[-1].start.voice_hash == "hash of anna"
        with pytest.raises(ValueError, match="ended"):
            talk.text("more")


async def test_playback_is_reported_at_most_five_times_per_second_of_audio() -> None:
    async with rig() as r, client_of(r) as (client, _):
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        talk = client.conversation(CONFIG)
        talk.text("A long sentence.")
        talk.flush()
        async for event in talk:
            if isinstance(event, sdk.AudioChunk):
                for milliseconds in range(0, 1001, 10):
                    talk.played(milliseconds * SAMPLE_RATE // 1000)
                await r.llm.calls[0].positioned.wait()
                r.llm.calls[0].script.hold[1].set()
                talk.end()
                talk.played(100 * SAMPLE_RATE)  # after the end
        positions = r.llm.calls[0].positions
        assert 1 <= len(positions) <= 5
        assert max(positions) <= 1.0


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_a_conversation_that_is_refused_before_its_audio_is_sent_again(kind: Literal["async", "threads"]) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(refusal=Overloaded("full", stage="llm"))
        waits = Waits()
        if kind == "async":
            async with AsyncClient(r.server.address, sleep=waits.sleep) as client:
                talk = client.conversation()
                talk.text("One.")
                talk.end()
                events = [event async for event in talk]
        else:

            def read() -> list[sdk.Event]:
                with Client(r.server.address, sleep=waits.append) as client:
                    talk = client.conversation()
                    talk.text("One.")
                    talk.end()
                    return list(talk)

            events = await asyncio.to_thread(read)
        assert waits == [1.0]
        kinds = [type(event) for event in events]
        assert (kinds.count(sdk.Started), kinds.count(sdk.Warning)) == (1, 1), "each once"
        seeds = {call.start.seed for call in r.llm.calls}
        assert len(seeds) == 1, "the second stream has the seed of the first"
        pcm = b"".join(event.pcm for event in events if isinstance(event, sdk.AudioChunk))
        assert len(pcm) == len("One.") * SAMPLES_PER_ID * 2


async def test_a_conversation_that_breaks_later_raises_and_says_how_much_was_spoken() -> None:
    async with rig() as r, Proxy(int(r.server.address.rpartition(":")[2])) as proxy:
        waits = Waits()
        async with AsyncClient(f"127.0.0.1:{proxy.port}", sleep=waits.sleep) as client:
            talk = client.conversation(CONFIG)
            talk.text("One.")
            talk.flush()

            async def read() -> None:
                async for event in talk:
                    if isinstance(event, sdk.Mark):
                        proxy.reset()

            with pytest.raises(sdk.ConnectionLost):
                await read()
            assert (talk.text_spoken, waits) == (4, [])


async def test_a_refusal_while_text_is_sent_keeps_its_reason() -> None:
    """grpcio replaces the server's status when a write fails at the same time."""
    async with rig() as r, client_of(r) as (client, _):
        talk = client.conversation(SynthesisConfig(voice_name="nobody"))

        async def read() -> None:
            async for _ in talk:
                talk.text("Two. ")

        for _ in range(200):
            talk.text("One. ")
        with pytest.raises(sdk.NotFound) as caught:
            await read()
        assert caught.value.field == "config.voice_name"


async def test_a_conversation_that_first_finds_no_gateway_has_all_its_events() -> None:
    async with rig() as r, Proxy(int(r.server.address.rpartition(":")[2])) as proxy:
        proxy.refuse = True

        async def sleep(_: float) -> None:
            proxy.refuse = False
            await asyncio.sleep(0.005)

        async with AsyncClient(f"127.0.0.1:{proxy.port}", retry=PATIENT, sleep=sleep) as client:
            talk = client.conversation()
            talk.text("One.")
            talk.end()
            kinds = [type(event) for event in [event async for event in talk]]
        assert [kinds.count(kind) for kind in (sdk.Started, sdk.Warning, sdk.Finished)] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["async", "threads"])
async def test_a_closed_client_does_not_try_again(kind: str) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        waits = Waits()
        if kind == "async":
            client = AsyncClient(r.server.address, sleep=waits.sleep)

            async def read() -> None:
                async for _ in client.speak("A long sentence."):
                    closing.append(asyncio.create_task(client.close()))

            closing: list[asyncio.Task[None]] = []
            with pytest.raises(sdk.ConnectionLost, match="closed"):
                await read()
            await asyncio.gather(*closing)
        else:
            threads = Client(r.server.address, sleep=waits.append)

            def read_in_thread() -> None:
                for _ in threads.speak("A long sentence."):
                    threads.close()

            with pytest.raises(sdk.ConnectionLost, match="closed"):
                await asyncio.to_thread(read_in_thread)
        assert waits == []


async def test_voices_are_registered_listed_and_deleted() -> None:
    header = sdk.CreateVoiceHeader(name="mine", transcript="hello", consent=True)
    async with rig() as r, client_of(r) as (client, _):
        voice = await client.register_voice(header, b"RIFF a recording")
        assert (voice.name, voice.transcript) == ("mine", "hello")
        assert "mine" in [one.name for one in (await client.list_voices()).voices]
        await client.delete_voice("mine")
        with Client(r.server.address) as threads:

            def check() -> list[str]:
                assert threads.register_voice(header, b"RIFF a recording").name == "mine"
                names = [one.name for one in threads.list_voices().voices]
                threads.delete_voice("mine")
                with pytest.raises(sdk.NotFound):
                    threads.delete_voice("mine")
                return names

            assert "mine" in await asyncio.to_thread(check)
        with pytest.raises(sdk.InvalidInput) as caught:
            await client.register_voice(sdk.CreateVoiceHeader(name="mine", transcript="x"), b"RIFF")
        assert caught.value.field == "header.consent"


async def test_leaving_the_loop_stops_the_synthesis() -> None:
    async with rig() as r, client_of(r) as (client, _):
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        async for _ in client.speak("A long sentence."):
            break
        await r.llm.calls[0].cancelled.wait()


def test_the_messages_of_the_package_are_those_of_the_proto() -> None:
    assert SynthesisConfig is tts_pb2.SynthesisConfig
    assert set(sdk.__all__) <= set(dir(sdk))
