"""A small voice agent over our own gRPC API. It sends text word by word, as a language model writes it, plays the audio
as a phone does, and reports its position. The caller interrupts the second answer.

Needs grpcio and the lighttts package that `make protos` generates.
"""

import asyncio
import os
import sys
import wave
from collections.abc import AsyncIterator

import grpc.aio

from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc

SERVER = os.environ.get("LIGHTTTS_SERVER", "127.0.0.1:50050")
KEY = os.environ.get("LIGHTTTS_API_KEY", "none")
WORD_SECONDS = 0.05
FRAME_SECONDS = 0.02
ANSWERS = (
    "Good morning, Alice. Welcome to London.",
    "This is a rather long answer that nobody wants to hear to its end.",
)
Request = tts_pb2.StreamingSynthesizeRequest


class Phone:
    """Plays the received audio frame by frame, and silence if there is none; records what it plays."""

    def __init__(self, out: wave.Wave_write, sample_rate: int) -> None:
        out.setparams((1, 2, sample_rate, 0, "NONE", ""))
        self._out, self._rate = out, sample_rate
        self._waiting = bytearray()
        self._first_waiting = 0
        self.playing = asyncio.Event()
        self.silent = asyncio.Event()

    @property
    def position(self) -> float:
        """Seconds of the stream's audio that have been played."""
        return self._first_waiting / self._rate

    def feed(self, chunk: audio_pb2.AudioChunk) -> None:
        self._waiting += chunk.pcm
        if chunk.pcm:
            self.silent.clear()

    def drop(self) -> None:
        """Drops the audio that has not been played."""
        self._first_waiting += len(self._waiting) // 2
        self._waiting.clear()

    async def play(self) -> None:
        frame_bytes = 2 * int(self._rate * FRAME_SECONDS)
        while True:
            await asyncio.sleep(FRAME_SECONDS)
            frame = self._waiting[:frame_bytes]
            del self._waiting[:frame_bytes]
            self._first_waiting += len(frame) // 2
            self._out.writeframesraw(bytes(frame).ljust(frame_bytes, b"\0"))
            now, other = (self.playing, self.silent) if frame else (self.silent, self.playing)
            now.set()
            other.clear()


class Agent:
    def __init__(self) -> None:
        self.requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self.marks: asyncio.Queue[int] = asyncio.Queue()
        self.phone: asyncio.Future[Phone] = asyncio.get_running_loop().create_future()

    async def sent(self) -> AsyncIterator[Request]:
        yield Request(config=tts_pb2.SynthesisConfig(voice_name="slt", seed=1))
        while (request := await self.requests.get()) is not None:
            yield request

    async def say(self, text: str) -> None:
        for word in text.split():
            await asyncio.sleep(WORD_SECONDS)
            self.requests.put_nowait(Request(text=f"{word} "))
        self.requests.put_nowait(Request(flush=tts_pb2.Flush()))

    async def report(self, phone: Phone) -> None:
        """Reports the playback position, so that the server neither sends far ahead nor falls behind."""
        while True:
            await asyncio.sleep(0.2)
            self.requests.put_nowait(Request(position=audio_pb2.PlaybackPosition(seconds=phone.position)))

    async def talk(self) -> None:
        phone = await self.phone
        working = [asyncio.create_task(work) for work in (phone.play(), self.report(phone))]
        await self.say(ANSWERS[0])
        await self.marks.get()  # all audio has been sent
        await phone.silent.wait()  # and played
        await self.say(ANSWERS[1])
        await phone.playing.wait()
        await asyncio.sleep(0.5)
        phone.drop()
        self.requests.put_nowait(Request(cancel=tts_pb2.Cancel()))
        await self.marks.get()
        self.requests.put_nowait(None)
        for task in working:
            task.cancel()

    def take(self, response: tts_pb2.StreamingSynthesizeResponse, out: wave.Wave_write) -> None:
        match response.WhichOneof("event"):
            case "started":
                self.phone.set_result(Phone(out, response.started.sample_rate))
            case "audio":
                self.phone.result().feed(response.audio)
            case "spoken" if response.spoken.cut:
                # Put into the language model's history what the caller has heard, not what the model wrote.
                heard = "".join(f"{word} " for answer in ANSWERS for word in answer.split())
                sys.stdout.write(f"heard: {heard[: response.spoken.text_offset]}\n")
            case "mark":
                self.marks.put_nowait(response.mark.flush)
            case "warning" | "resumed" | "reconnect" as event:
                sys.stdout.write(f"{event}: {getattr(response, event)}\n")
            case "finished":
                sys.stdout.write(f"first audio after {response.finished.time_to_first_audio:.2f} s\n")


async def main() -> None:
    agent = Agent()
    async with grpc.aio.insecure_channel(SERVER) as channel:
        stub = tts_pb2_grpc.TextToSpeechStub(channel)
        call = stub.StreamingSynthesize(agent.sent(), metadata=(("x-api-key", KEY),))
        with wave.open("conversation.wav", "wb") as out:
            talking = asyncio.create_task(agent.talk())
            async for response in call:
                agent.take(response, out)
            await talking


asyncio.run(main())
