"""One text that arrives in pieces, and its speech: a context of a multi-context socket, or a whole plain socket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway.api.elevenlabs.alignment import Characters, TextAlignment, aligned_audio
from gateway.api.elevenlabs.request import VoiceSettings
from gateway.auth.caller import current_caller
from gateway.auth.shares import Shares
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from gateway.session.output import Event, Events
from gateway.session.session import CancelInput, FlushInput, Input, Session, TextInput
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput, LightTtsError


class TextStream:
    """Takes text without waiting; `run` speaks it. What waits for the session is bounded and counts as held bytes."""

    def __init__(self, context: GatewayContext, bodies: Shares, *, relative: bool) -> None:
        """`bodies`: the bytes of all open requests. `relative`: how times of characters count, see TextAlignment."""
        self.settings = VoiceSettings()
        self._context = context
        self._bodies = bodies
        self._caller = current_caller()
        self._inputs: asyncio.Queue[Input | LightTtsError | None] = asyncio.Queue()
        self._alignment = TextAlignment(relative=relative)
        self._begun = asyncio.Event()
        """Set as soon as there is text to speak, or none will come."""
        self._waiting = 0
        """Characters that wait for the session."""
        self._fed = 0
        """Characters of all text."""
        self._spoken = 0
        """Characters whose audio has been sent."""
        self._unflushed = False
        """Whether text has arrived after the last flush."""
        self._confirmed = False
        """Whether the client has flushed all text so far."""
        self._pending: deque[bool] = deque()
        """Flushes whose audio has not been sent completely: whether the client asked for each."""
        self._owed = False
        """Whether a flush waits until there are fewer of them."""
        self._blank = True
        """Whether the text so far ends with a blank."""
        self._failed = False
        self._closing = False
        """Whether the speech ends with the audio of the last flush by the client."""
        self._cutting = False
        """Whether the text after that flush has been cancelled."""
        self.ended = False
        """Whether no more text may come."""
        self.touched = asyncio.get_running_loop().time()
        """When the client or the speech last did something."""

    def touch(self) -> None:
        """Record that the client or the speech did something."""
        self.touched = asyncio.get_running_loop().time()

    def configure(self, settings: VoiceSettings | None) -> None:
        """Take the settings of the voice; they hold for the whole text, so later ones have no effect."""
        if settings is not None and not self._begun.is_set():
            self.settings = settings

    def feed(self, text: str) -> None:
        """Add text. Blanks at the beginning and text after the end are left out. Raises InvalidInput if too much text
        waits, QuotaExceeded or Overloaded if this gateway holds too many bytes."""
        if self.ended:  # `run` takes no more text, so nothing would give the bytes back
            return
        if not self._begun.is_set():
            if not text.strip():
                return
            self._begun.set()
        limit = self._context.settings.max_text_chars
        if self._waiting + len(text) > limit:
            raise InvalidInput(f"more than {limit} characters wait to be spoken; send text more slowly", field="text")
        self._add(text)
        self._confirmed = False

    def flush(self, *, by_client: bool) -> None:
        """Speak all text so far. A flush beyond the limit of pending ones joins the next one that is possible.

        `by_client`: it asks for the flush itself, so `close` lets the text be spoken. The flushed text gets a final
        blank, as ElevenLabs' alignments have it: clients recognise the end of a word by it. Raises QuotaExceeded or
        Overloaded if this gateway holds too many bytes.
        """
        if self.ended or not self._begun.is_set():
            return
        if by_client:
            self._confirmed = True
            self._pending = deque(True for _ in self._pending)
        if not self._unflushed:
            return
        # The session counts the blank too: when all the text that may wait does so, it would refuse the context.
        if not self._blank and self._fed - self._spoken < self._context.settings.max_text_chars:
            self._add(" ")
        if len(self._pending) >= self._context.settings.max_pending_flushes:
            self._owed = True
            return
        self._pending.append(by_client)
        self._unflushed = self._owed = False
        self._inputs.put_nowait(FlushInput())

    def end(self) -> None:
        """No text follows; the text so far is spoken."""
        if not self.ended:
            self.ended = True
            self._begun.set()
            self._inputs.put_nowait(None)

    def fail(self, error: LightTtsError) -> None:
        """End the speech; `run` raises the error."""
        self._begun.set()
        self.ended = True
        self._failed = True
        self._inputs.put_nowait(error)

    def close(self) -> None:
        """No text follows. Text that the client has flushed is spoken; other text is dropped, as a barge-in needs it.

        All text is spoken if a flush waits for its turn, because the place of such a flush is not known.
        """
        if self.ended:
            return
        if any(self._pending) and not (self._confirmed or self._owed):
            # The session has the text after the flush already: it is cancelled when the flushed text has been spoken.
            self.ended = self._closing = True
            return
        if not self._confirmed and not any(self._pending) and (self._unflushed or self._pending):
            self._inputs.put_nowait(CancelInput())
        self.end()

    def release(self) -> None:
        """Take no more text, and give back the bytes of the text that waits. It may be called several times."""
        self.ended = True
        self._bodies.give(self._caller, self._waiting)
        self._waiting = 0

    async def run(
        self,
        options: Callable[[], Awaitable[SpeechOptions]],
        send: Callable[[bytes, Characters | None], Awaitable[None]],
    ) -> None:
        """Speak until the text has ended. Raises any LightTtsError."""
        try:
            await self._begun.wait()
            if self._waiting or self._failed:
                spoken_with = await self._context.lexicon.applied(await options())
                async with Session(self._context, spoken_with, self._each()) as session:
                    async for audio, characters in aligned_audio(self._marked(session), self._alignment):
                        if audio or characters is not None:
                            await send(audio, characters)
                            self.touch()
        finally:
            self.release()

    def _add(self, text: str) -> None:
        self._bodies.take(self._caller, len(text))
        self._waiting += len(text)
        self._fed += len(text)
        self._unflushed, self._blank = True, text[-1:].isspace()
        self._inputs.put_nowait(TextInput(text))

    async def _each(self) -> AsyncGenerator[Input]:
        while (item := await self._inputs.get()) is not None:
            if isinstance(item, LightTtsError):
                raise item
            if isinstance(item, TextInput):
                self._waiting -= len(item.text)
                self._bodies.give(self._caller, len(item.text))
                self._alignment.add(item.text)
            elif isinstance(item, FlushInput):
                self._alignment.mark()
            yield item

    async def _marked(self, session: Events) -> AsyncGenerator[Event]:
        async for event in session:
            if isinstance(event, tts_pb2.Mark):
                self._pending.popleft()
                if self._owed:
                    self.flush(by_client=self._confirmed)
                if self._closing and not self._cutting and not any(self._pending):
                    self._cutting = True
                    self._inputs.put_nowait(CancelInput())
                    self._inputs.put_nowait(None)
            elif isinstance(event, tts_pb2.Spoken):
                self._spoken = event.text_offset
            elif self._cutting and isinstance(event, audio_pb2.AudioChunk) and event.format:
                continue  # of the cancelled text; in other formats it may contain the end of the flushed text
            yield event
