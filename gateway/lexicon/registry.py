"""The operations on a caller's lexicon, with their limits and audit log, and its use in a request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from gateway.auth.caller import Caller, current_caller
from gateway.auth.quota import Quotas
from gateway.lexicon.record import LexiconRecord
from gateway.lexicon.store import LexiconStore
from gateway.session.options import SpeechOptions
from lighttts.v1 import lexicon_pb2, tts_pb2
from services.common.errors import InvalidInput, NotFound, QuotaExceeded, Unavailable, quoted

audit = structlog.get_logger("gateway.audit")
"""One line per change: key, owner, operation and phrase."""

Check = Callable[[lexicon_pb2.LexiconEntry], Awaitable[None]]
"""Raises InvalidInput for an entry that the model's service cannot use."""


class LexiconRegistry:
    """Callers' lexicons. Only its owner sees and uses an entry."""

    def __init__(
        self, store: LexiconStore, quotas: Quotas, max_entries: int, now: Callable[[], float] = time.time
    ) -> None:
        """`max_entries`: most entries of one owner."""
        self._store = store
        self._quotas = quotas
        self._max_entries = max_entries
        self._now = now

    async def put(self, caller: Caller, entry: lexicon_pb2.LexiconEntry, check: Check) -> tuple[LexiconRecord, bool]:
        """Store an entry; return it, and whether it replaced one of the same phrase.

        Raises InvalidInput for an entry that cannot be used, QuotaExceeded, Unavailable.
        """
        if entry.alphabet not in lexicon_pb2.PhoneticAlphabet.values():
            raise InvalidInput("unknown alphabet; use IPA, ARPABET, PINYIN or none", field="entry.alphabet")
        await self._quotas.spend(caller)
        await check(entry)
        record = LexiconRecord.of(entry, self._now())
        owned = await self._store.owned(caller.owner)
        if len(owned) >= self._max_entries and all(other.phrase != record.phrase for other in owned):
            raise QuotaExceeded(
                f"your lexicon has {len(owned)} entries, which is the limit; delete one first",
                retry_after=None,
                subject=caller.owner,
            )
        existed = await self._store.put(caller.owner, record)
        audit.info("pronunciation stored", key=caller.name, owner=caller.owner, phrase=record.phrase)
        return record, existed

    async def owned(self, caller: Caller) -> list[LexiconRecord]:
        """Return the caller's entries, ordered by phrase."""
        return await self._store.owned(caller.owner)

    async def delete(self, caller: Caller, phrase: str) -> None:
        """Delete an entry. Raises NotFound."""
        if not await self._store.delete(caller.owner, " ".join(phrase.split())):
            raise NotFound(f"your lexicon has no phrase {quoted(phrase)}", field="phrase")
        audit.info("pronunciation deleted", key=caller.name, owner=caller.owner, phrase=phrase)

    async def applied(self, options: SpeechOptions) -> SpeechOptions:
        """Return the options of the current caller's request with the caller's lexicon, over which the request's wins.

        Without the store the text is spoken all the same, with a warning.
        """
        try:
            own = await self.entries()
        except Unavailable:
            warning = tts_pb2.Warning(
                code="lexicon_unavailable", message="your lexicon cannot be read now; the text is spoken without it"
            )
            return dataclasses.replace(options, warnings=(*options.warnings, warning))
        return dataclasses.replace(options, lexicon=merged(own, options.lexicon)) if own else options

    async def entries(self) -> list[lexicon_pb2.LexiconEntry]:
        """Return the current caller's entries. Raises Unavailable."""
        return [record.message() for record in await self._store.owned(current_caller().owner)]


def merged(
    own: Iterable[lexicon_pb2.LexiconEntry], requested: Iterable[lexicon_pb2.LexiconEntry]
) -> tuple[lexicon_pb2.LexiconEntry, ...]:
    """Return the entries of a caller and of a request; of equal phrases that of the request."""
    entries = {" ".join(entry.phrase.split()): entry for entry in own}
    return (*({**entries, **{" ".join(entry.phrase.split()): entry for entry in requested}}.values()),)
