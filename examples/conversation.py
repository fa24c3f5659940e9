"""A small voice agent with our own client (pip install ./clients/python). It sends text word by word, as a language
model writes it, plays the audio as a phone does, and reports its position. The caller interrupts the second answer.
"""

import asyncio
import sys
import wave

from lighttts_client import (
    AsyncClient,
    AsyncConversation,
    AudioChunk,
    Finished,
    Mark,
    Reconnect,
    Resumed,
    Spoken,
    Started,
    SynthesisConfig,
    Warning,
)

WORD_SECONDS = 0.05
FRAME_SECONDS = 0.02
ANSWERS = (
    "Good morning, Alice. Welcome to London.",
    "This is a rather long answer that the caller does not hear to its end.",
)


class Phone:
    """Plays the received audio frame by frame, and silence if there is none; records what it plays."""

    def __init__(self, out: wave.Wave_write, sample_rate: int) -> None:
        out.setparams((1, 2, sample_rate, 0, "NONE", ""))
        self._out, self._rate = out, sample_rate
        self._waiting = bytearray()
        self.played = 0
        self.playing = asyncio.Event()
        self.silent = asyncio.Event()

    def feed(self, chunk: AudioChunk) -> None:
        self._waiting += chunk.pcm
        if chunk.pcm:
            self.silent.clear()

    def drop(self) -> None:
        """Drops the audio that has not been played."""
        self.played += len(self._waiting) // 2
        self._waiting.clear()

    async def play(self, talk: AsyncConversation) -> None:
        frame_bytes = 2 * int(self._rate * FRAME_SECONDS)
        while True:
            await asyncio.sleep(FRAME_SECONDS)
            frame = self._waiting[:frame_bytes]
            del self._waiting[:frame_bytes]
            self.played += len(frame) // 2
            talk.played(self.played)  # so that the server neither sends far ahead nor falls behind
            self._out.writeframesraw(bytes(frame).ljust(frame_bytes, b"\0"))
            now, other = (self.playing, self.silent) if frame else (self.silent, self.playing)
            now.set()
            other.clear()


class Agent:
    def __init__(self, talk: AsyncConversation) -> None:
        self.talk = talk
        self.marks: asyncio.Queue[int] = asyncio.Queue()
        self.phone: asyncio.Future[Phone] = asyncio.get_running_loop().create_future()

    async def say(self, text: str) -> None:
        for word in text.split():
            await asyncio.sleep(WORD_SECONDS)
            self.talk.text(f"{word} ")
        self.talk.flush()

    async def speak(self) -> None:
        phone = await self.phone
        playing = asyncio.create_task(phone.play(self.talk))
        await self.say(ANSWERS[0])
        await self.marks.get()  # all audio has been sent
        await phone.silent.wait()  # and played
        await self.say(ANSWERS[1])
        await phone.playing.wait()
        await asyncio.sleep(0.5)
        phone.drop()
        self.talk.cancel()
        await self.marks.get()
        playing.cancel()
        self.talk.end()

    async def listen(self, out: wave.Wave_write) -> None:
        async for event in self.talk:
            match event:
                case Started():
                    self.phone.set_result(Phone(out, event.sample_rate))
                case AudioChunk():
                    self.phone.result().feed(event)
                case Spoken() if event.cut:
                    # Put into the language model's history what the caller has heard, not what the model wrote.
                    heard = "".join(f"{word} " for answer in ANSWERS for word in answer.split())
                    sys.stdout.write(f"heard: {heard[: event.text_offset]}\n")
                case Mark():
                    self.marks.put_nowait(event.flush)
                case Warning() | Resumed() | Reconnect():
                    sys.stdout.write(f"{type(event).__name__}: {event}\n")
                case Finished():
                    sys.stdout.write(f"first audio after {event.time_to_first_audio:.2f} s\n")


async def main() -> None:
    async with AsyncClient() as client:
        agent = Agent(client.conversation(SynthesisConfig(voice_name="anna", seed=1)))
        with wave.open("conversation.wav", "wb") as out:
            out.setparams((1, 2, 24_000, 0, "NONE", ""))  # without them, close() hides the error of a failed call
            speaking = asyncio.create_task(agent.speak())
            await agent.listen(out)
            await speaking


asyncio.run(main())
