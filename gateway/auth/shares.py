"""An amount that all callers share, of which one caller may hold only a part."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from gateway.auth.caller import ANONYMOUS, Caller
from services.common.errors import Overloaded, QuotaExceeded

RETRY_SECONDS = 1.0


class Shares:
    """Counts what each caller holds. Without keys all callers are one, which may hold everything."""

    def __init__(self, what: str, total: int, share: int) -> None:
        """`what`: a plural noun for errors, such as "voice uploads". `share`: the part of `total` for one caller."""
        self._what = what
        self._total = total
        self._share = share
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """The amount that all callers hold."""
        return self._held.total()

    def check(self, caller: Caller, amount: int = 1) -> None:
        """Raise the error of `take` without taking anything."""
        if self.held + amount > self._total:
            raise Overloaded(
                f"all {self._total} {self._what} of this gateway are in use; try again shortly", stage="gateway"
            )
        if caller != ANONYMOUS and self._held[caller.name] + amount > self._share:
            raise QuotaExceeded(
                f"key {caller.name!r} may use {self._share} {self._what} at once; finish one request first",
                retry_after=RETRY_SECONDS,
                subject=caller.name,
            )

    def take(self, caller: Caller, amount: int = 1) -> None:
        """Take an amount. Raises Overloaded if the total is used up, QuotaExceeded if the caller's share is."""
        self.check(caller, amount)
        self._held[caller.name] += amount

    def give(self, caller: Caller, amount: int = 1) -> None:
        """Give an amount back."""
        self._held[caller.name] -= amount
        if not self._held[caller.name]:
            del self._held[caller.name]

    @contextlib.contextmanager
    def hold(self, caller: Caller, amount: int = 1) -> Iterator[None]:
        """Take an amount while the block runs."""
        self.take(caller, amount)
        try:
            yield
        finally:
            self.give(caller, amount)
