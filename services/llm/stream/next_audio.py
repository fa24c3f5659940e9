"""When the listener of an utterance needs its next audio: the target that each decode worker receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

LEAST_TARGET_SECONDS = 0.001
"""For audio that is overdue; 0 would stand for the worker's default."""


@dataclass
class NextAudio:
    """Follows the playback of one utterance. Times are in seconds of `clock`."""

    clock: Callable[[], float]
    target: float
    """Seconds from the start of the utterance to the time when its first audio is due; 0: the service's default."""
    default: float
    """Target without an own one, in seconds."""
    elapsed: float = 0.0
    """Seconds since the start of the utterance."""
    _due: float = field(init=False)
    """When the first sample is due, or was played."""
    _played: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._due = self.clock() - self.elapsed + (self.target or self.default)

    def on_audio(self, seconds: float) -> None:
        """Record audio from `seconds` of the utterance on. The first audio is played at once, not before its target."""
        if not self._played:
            now = self.clock() - seconds
            self._due = max(now, self._due) if self.target else now
            self._played = True

    def on_position(self, seconds: float) -> None:
        """Record that the listener has played this many seconds of the utterance."""
        self._due, self._played = self.clock() - seconds, True

    def target_from(self, seconds: float) -> float:
        """Return the seconds from now until audio from `seconds` of the utterance on is due.

        While it plays they are at most the default: a listener who reports no positions may have less audio left.
        """
        now = self.clock()
        left = max(LEAST_TARGET_SECONDS, self._due + seconds - now)
        return min(left, self.default) if self._played and self._due <= now else left
