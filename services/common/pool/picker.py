"""Policies that pick the worker for the next utterance."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """The data of a worker that a picker uses."""

    @property
    def address(self) -> str: ...

    @property
    def active(self) -> int:
        """Leases of this pool on it."""


C = TypeVar("C", bound=Candidate)


class Picker(Protocol):
    """A policy. A picker belongs to one pool and may keep state between picks."""

    def pick(self, candidates: Sequence[C]) -> C:
        """Return one of `candidates`: in order of address, never empty, and maybe different from call to call."""


_address = attrgetter("address")


class RoundRobin:
    """Pick each worker in turn, by address. Only the last address is stored, so turns stay even while workers change.

    The first pick is random, so that the pools of many clients do not all start with the same worker.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        """`chance` makes the first pick; by default each process makes another one."""
        self._last: str | None = None
        self._chance = chance or random.Random()

    def pick(self, candidates: Sequence[C]) -> C:
        last = self._last
        if last is None:
            picked = self._chance.choice(candidates)
        else:
            after = bisect_right(candidates, last, key=_address)
            picked = candidates[after % len(candidates)]
        self._last = picked.address
        return picked


class LeastLoaded:
    """Pick the worker with the fewest leases of this pool, round robin among equals."""

    def __init__(self) -> None:
        self._round_robin = RoundRobin()

    def pick(self, candidates: Sequence[C]) -> C:
        least = min(candidate.active for candidate in candidates)
        return self._round_robin.pick([candidate for candidate in candidates if candidate.active == least])
