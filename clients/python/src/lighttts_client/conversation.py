"""A conversation: text in fragments while audio comes, with flush, cancel, changes and playback reports."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from lighttts.v1.audio_pb2 import AudioChunk, PlaybackPosition
from lighttts.v1.tts_pb2 import (
    Cancel,
    Configure,
    Configured,
    End,
    Finished,
    FirstAudio,
    Flush,
    Mark,
    Reconnect,
    Resumed,
    Spoken,
    Started,
    StreamingSynthesizeRequest,
    StreamingSynthesizeResponse,
    SynthesisConfig,
    Warning,
)
from lighttts_client.errors import LightTtsError, check_text
from lighttts_client.retry import Retry

Event: TypeAlias = (
    Started | AudioChunk | Mark | Spoken | Configured | Warning | Resumed | Reconnect | FirstAudio | Finished
)
REPORT_SECONDS = 0.2
"""Audio between two reports of `played`."""
_BEFORE_SPEECH = frozenset({"started", "warning"})
"""Events after which everything may be sent again: nothing has been spoken."""


class Requests(Protocol):
    """The queue of one call's messages; None ends them."""

    def put_nowait(self, request: StreamingSynthesizeRequest | None) -> None: ...


class ConversationState:
    """The messages of a conversation. No method waits. The subclasses make the calls.

    A conversation that breaks or is refused before its first audio is sent again. Later, the error is raised: open a
    new conversation with the text after `text_spoken`.
    """

    def __init__(self, config: SynthesisConfig, retry: Retry) -> None:
        self._retry = retry
        self._sent: list[StreamingSynthesizeRequest] = [StreamingSynthesizeRequest(config=config)]
        self._open: Requests | None = None
        self._begun = False
        self._ended = False
        self._failures = 0
        self._warnings: set[tuple[str, str]] = set()
        self._reported = 0.0
        self.started: Started | None = None
        """Request id, seed, sample rate and limits; None until the gateway has accepted the stream."""
        self.finished: Finished | None = None
        """The figures of the whole; None until the end."""
        self.text_spoken = 0
        """Characters of the sent text that have been spoken, as `Spoken` reports them."""

    def text(self, text: str) -> None:
        """Send text, in fragments of any size. Raises InvalidInput for half of a character, and sends nothing then."""
        check_text("text", text)
        self._send(StreamingSynthesizeRequest(text=text))

    def flush(self) -> None:
        """Speak all text so far; a `Mark` follows its audio."""
        self._send(StreamingSynthesizeRequest(flush=Flush()))

    def cancel(self) -> None:
        """Barge-in: drop the audio that has not been sent; `Spoken` says what was heard."""
        self._send(StreamingSynthesizeRequest(cancel=Cancel()))

    def configure(self, change: SynthesisConfig) -> None:
        """Speak the text that follows as the fields that are set in `change` say."""
        self._send(StreamingSynthesizeRequest(configure=Configure(config=change)))

    def position(self, seconds: float) -> None:
        """Report the listener's position. After the first report, report several times per second of audio.

        After `end`, the server needs no reports, and none is sent.
        """
        self._reported = seconds
        if not self._ended:
            self._send(StreamingSynthesizeRequest(position=PlaybackPosition(seconds=seconds)))

    def played(self, samples: int) -> None:
        """Report that the listener has played this many samples of the stream. Frequent calls are combined."""
        seconds = samples / self.started.sample_rate if self.started else 0.0
        if seconds >= self._reported + REPORT_SECONDS:
            self.position(seconds)

    def end(self) -> None:
        """Send no more text. The conversation ends when all of it has been spoken."""
        if not self._ended:
            self._send(StreamingSynthesizeRequest(end=End()))
        self._ended = True

    def _send(self, request: StreamingSynthesizeRequest) -> None:
        if self._ended:
            raise ValueError("the conversation has been ended; open a new one")
        if not self._begun:
            self._sent.append(request)
        if self._open is not None:
            self._open.put_nowait(request)

    def open(self, requests: Requests) -> None:
        """Begin a call whose messages come from `requests`."""
        for request in self._sent:
            requests.put_nowait(request)
        self._open = requests

    def take(self, response: StreamingSynthesizeResponse) -> Event | None:
        """Note an answer; return its event, or None if an earlier call had it."""
        name = response.WhichOneof("event")
        if name is None:
            return None
        event: Event = getattr(response, name)
        if name not in _BEFORE_SPEECH:
            self._begun = True
            self._sent.clear()
        match event:
            case Started():
                again, self.started = self.started is not None, event
                return None if again else event
            case Warning():
                again = (event.code, event.message) in self._warnings
                self._warnings.add((event.code, event.message))
                return None if again else event
            case Spoken():
                self.text_spoken = event.text_offset
            case Finished():
                self.finished = event
        return event

    def failed(self, error: LightTtsError) -> float:
        """Return the seconds until the next call. Raises `error` if there is none."""
        if self._begun:
            raise error
        self._failures += 1
        delay = self._retry.delay(self._failures, error)
        if self.started is not None:  # the same speech again: the seed may have been the gateway's choice
            self._sent[0].config.seed = self.started.seed
        return delay

    def close(self) -> None:
        """End the messages of the present call."""
        if self._open is not None:
            self._open.put_nowait(None)
            self._open = None
