"""Tokens on their way from the engine's thread to the task of an utterance, which can use them only by the hop.

The engine reports each token. To wake the task for each costs more than all other work of the llm service per second
of audio, so the task is woken for the first tokens, for those that complete a hop, and for the last ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from services.common.engine.shell import FailedEvent
from services.llm.engine.sequence import TokensEvent


@dataclass(frozen=True)
class TokensReady:
    """Tokens wait to be taken."""


class TokenInbox:
    """`receive` is for the engine's thread, the other methods are for the task.

    Each thread writes what the other one reads before it reads what that one writes, so no wake-up is lost. One too
    many does no harm.
    """

    def __init__(self, post: Callable[[TokensReady | FailedEvent], None]) -> None:
        """`post` delivers an event to the task; it may be called from any thread."""
        self._post = post
        self._events: deque[TokensEvent] = deque()
        self._received = 0
        """Speech tokens; written by the engine's thread."""
        self._taken = 0
        self._wanted = 0
        """The number of received speech tokens from which on the task is woken."""
        self._announced = False
        """Whether the task will be woken."""

    def receive(self, event: TokensEvent | FailedEvent) -> None:
        """Take an event of the engine."""
        if not isinstance(event, TokensEvent):
            self._post(event)
            return
        self._events.append(event)
        self._received += len(event.ids)
        if event.last or self._received >= self._wanted:
            self._announce()

    def take(self) -> TokensEvent | None:
        """Return all tokens that were received and not taken, as one event; None if there are none."""
        self._announced = False
        events = [self._events.popleft() for _ in range(len(self._events))]
        if not events:
            return None
        ids, raw_ids, _, _, aligned, _ = zip(*events, strict=True)
        joined = events[-1]._replace(
            ids=tuple(chain.from_iterable(ids)),
            raw_ids=tuple(chain.from_iterable(raw_ids)),
            aligned=tuple(chain.from_iterable(aligned)),
        )
        self._taken += len(joined.ids)
        return joined

    def wake_after(self, missing: int) -> None:
        """Wake the task when `missing` more speech tokens than it has taken were received."""
        self._wanted = self._taken + missing
        if self._received >= self._wanted:
            self._announce()

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._post(TokensReady())
