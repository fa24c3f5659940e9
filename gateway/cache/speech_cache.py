"""The state of the result cache: a store of finished speech, and the running shared syntheses."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.cache.key import ResultKey
from gateway.cache.shared_synthesis import SharedSynthesis
from gateway.cache.store import ResultStore


@dataclass(frozen=True)
class SpeechCache:
    """The result cache: finished speech, and the syntheses that equal requests share."""

    store: ResultStore
    any_seed: bool
    """Whether requests without a seed may get the same speech again."""
    max_text_chars: int
    """Longer texts are not cached: they take much memory and are rarely repeated."""
    generation: str
    """Cache version; the operator changes it when the weights change."""
    shared: bool
    """Whether results of one API key are given to others."""
    shared_syntheses: dict[tuple[str, ResultKey], SharedSynthesis] = field(default_factory=dict)
