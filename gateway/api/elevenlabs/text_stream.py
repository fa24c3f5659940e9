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
from lighttts.v1 import tts_pb2
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
        """Add text. Blanks at the begin are left out. Raises InvalidInput if too much text waits, QuotaExceeded or
        Overloaded if this gateway holds too many bytes."""
        if not self._begun.is_set():
            if not text.strip():
                return
            self._begun.set()
        limit = self._context.settings.max_text_chars
        if self._waiting + len(text) > limit:
            raise InvalidInput(f"more than {limit} characters wait to be spoken; send text more slowly", field="text")
        self._bodies.take(self._caller, len(text))
        self._waiting += len(text)
        self._unflushed, self._confirmed, self._blank = True, False, text[-1:].isspace()
        self._inputs.put_nowait(TextInput(text))

    def flush(self, *, by_client: bool) -> None:
        """Speak all text so far. A flush beyond the limit of pending ones joins the next one that is possible.

        `by_client`: it asks for the flush itself, so `close` lets the text be spoken. The flushed text gets a final
        blank, as ElevenLabs' alignments have it: clients recognise the end of a word by it.
        """
        if self.ended or not self._begun.is_set():
            return
        if by_client:
            self._confirmed = True
            self._pending = deque(True for _ in self._pending)
        if not self._unflushed:
            return
        if not self._blank:
            confirmed = self._confirmed
            self.feed(" ")
            self._confirmed = confirmed
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
        """No text follows. Text that has been flushed is spoken; otherwise the speech ends, as a barge-in needs it."""
        wanted = self._confirmed or any(self._pending)
        if not self.ended and not wanted and (self._unflushed or self._pending):
            self._inputs.put_nowait(CancelInput())
        self.end()

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
            self.ended = True
            self._bodies.give(self._caller, self._waiting)
            self._waiting = 0

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
            yield event
