"""Finished speech, and synthesis that several requests share."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.cache.key import ResultKey
from gateway.cache.shared_synthesis import SharedSynthesis
from gateway.cache.store import ResultStore


@dataclass(frozen=True)
class SpeechCache:
    """What is remembered of finished speech, and what is being made for more than one listener."""

    store: ResultStore
    any_seed: bool
    """Whether requests that leave the seed open may get the same speech again."""
    max_text_chars: int
    """Longer texts are always spoken: they are long in memory and seldom asked for twice."""
    generation: str
    """Changed by the operator when the checkpoints' weights change."""
    flights: dict[tuple[str, ResultKey], SharedSynthesis] = field(default_factory=dict)
