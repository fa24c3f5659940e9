"""When a failed request is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from lighttts_client.errors import LightTtsError, Overloaded, Unavailable


@dataclass(frozen=True)
class Retry:
    """Requests that were refused for load, or whose connection broke, are tried again.

    The wait is what the gateway names, else it doubles from `first_delay` on. New audio starts the count afresh.
    """

    attempts: int = 6
    """Attempts without new audio; 1: never try again."""
    first_delay: float = 0.2
    longest_delay: float = 10.0
    """Longest wait in seconds; an error that names a longer one is raised."""

    def delay(self, failures: int, error: LightTtsError) -> float:
        """Return the seconds until the next attempt. Raises `error` if there is none. `failures`: 1 or more."""
        hint = error.retry_after
        retried = isinstance(error, Unavailable) or (isinstance(error, Overloaded) and hint is not None)
        if not retried or failures >= self.attempts or (hint or 0.0) > self.longest_delay:
            raise error
        # No float holds 2**1024, and there may be any number of attempts.
        doubled = self.first_delay * 2.0 ** min(failures - 1, 100)
        return hint if hint is not None else min(doubled, self.longest_delay)
