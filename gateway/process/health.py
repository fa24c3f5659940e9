"""What a gateway reports about itself and about the services behind it."""

from __future__ import annotations

from collections.abc import Callable

from gateway.auth.admission import Admission
from services.common.pool import Pool


class GatewayHealth:
    """Readiness of this gateway alone, and whether text can be spoken now (end to end)."""

    def __init__(
        self, admission: Admission, encode: Pool, llm: Pool, grace_seconds: float, clock: Callable[[], float]
    ) -> None:
        """`clock` returns seconds; it measures `grace_seconds`, the longest outage that is not reported."""
        self.started = False
        """Set when the gateway has started: the encode service has answered once."""
        self._admission = admission
        self._encode = encode
        self._llm = llm
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._able = False
        """The latest report, so that the first report and the end of an outage need no grace."""
        self._missing_since: float | None = None

    def not_ready(self) -> str:
        """Return why this gateway accepts no requests, or an empty string if it does."""
        if self._admission.draining:
            return "stopping"
        return "" if self.started else "starting: no encode worker has answered yet"

    def unable(self) -> str:
        """Return why no text can be spoken now, or an empty string if it can or could a short time ago."""
        if reason := self.not_ready() or self.missing():
            now = self._clock()
            self._missing_since = now if self._missing_since is None else self._missing_since
            within_grace = self._able and now - self._missing_since < self._grace_seconds
            if within_grace and not self._admission.draining:
                return ""
        else:
            self._missing_since = None
        self._able = not reason
        return reason

    def missing(self) -> str:
        """Return which service cannot serve now, without the grace; an empty string if all can."""
        missing = [name for name, pool in (("encode", self._encode), ("llm", self._llm)) if not _serves(pool)]
        if not missing and not self._llm.serves_end_to_end:
            missing = ["decode"]  # the llm workers report it
        return f"no {' and no '.join(missing)} worker is serving" if missing else ""


def _serves(pool: Pool) -> bool:
    return bool(pool.serving())
