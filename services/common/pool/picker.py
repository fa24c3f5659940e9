"""Which of the healthy workers takes the next utterance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What a picker sees of a worker."""

    @property
    def address(self) -> str: ...

    @property
    def active(self) -> int:
        """Leases this pool holds on it now."""


C = TypeVar("C", bound=Candidate)


class Picker(Protocol):
    """A policy. One picker belongs to one pool and may keep state between picks."""

    def pick(self, candidates: Sequence[C]) -> C:
        """One of `candidates`, which are never empty and may differ from pick to pick."""


class RoundRobin:
    """Each in turn, by address. Turns stay even while workers come and go, because the last address is the memory.

    The first turn is random, so that the pools of many clients do not all begin with the same worker.
    """

    def __init__(self) -> None:
        self._last: str | None = None

    def pick(self, candidates: Sequence[C]) -> C:
        ordered = sorted(candidates, key=lambda candidate: candidate.address)
        last = self._last
        if last is None:
            picked = random.choice(ordered)
        else:
            picked = next((candidate for candidate in ordered if candidate.address > last), ordered[0])
        self._last = picked.address
        return picked


class LeastLoaded:
    """The one with the fewest of this pool's leases; each in turn among equals."""

    def __init__(self) -> None:
        self._turn = RoundRobin()

    def pick(self, candidates: Sequence[C]) -> C:
        least = min(candidate.active for candidate in candidates)
        return self._turn.pick([candidate for candidate in candidates if candidate.active == least])
