"""The speakers of the training set: blends of Kokoro's five styles. The first two are the product's voices.

Shares of the five styles move pitch and timbre together: `jm_kumo` is a man of 100 Hz, the others are women of 200 to
260 Hz. Kokoro's styles are Japanese speakers; the phones are American English.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

PRODUCT_SHARE = 0.5
"""Share of the utterances that the product's two voices speak."""


@dataclass(frozen=True)
class Speaker:
    """A name, the shares of the styles, and the pace."""

    name: str
    blend: Mapping[str, float]
    speed: float = 0.9


SPEAKERS = (
    Speaker("anna", {"jf_gongitsune": 0.65, "jm_kumo": 0.35}),
    Speaker("hugo", {"jf_gongitsune": 0.2, "jm_kumo": 0.8}),
    Speaker("middle", {"jf_gongitsune": 0.5, "jm_kumo": 0.5}),
    Speaker("gongitsune", {"jf_gongitsune": 0.9, "jm_kumo": 0.1}),
    Speaker("kumo", {"jm_kumo": 1.0}),
    Speaker("nezumi", {"jf_nezumi": 0.6, "jm_kumo": 0.4}),
    Speaker("tebukuro", {"jf_tebukuro": 0.6, "jm_kumo": 0.4}),
    Speaker("nezumi-low", {"jf_nezumi": 0.3, "jm_kumo": 0.7}),
    Speaker("tebukuro-low", {"jf_tebukuro": 0.3, "jm_kumo": 0.7}),
    Speaker("alpha-low", {"jf_alpha": 0.4, "jm_kumo": 0.6}),
    Speaker("three", {"jf_gongitsune": 0.4, "jf_nezumi": 0.3, "jm_kumo": 0.3}),
    Speaker("four", {"jf_gongitsune": 0.3, "jf_tebukuro": 0.3, "jm_kumo": 0.4}),
)


def speaker_of(sentence: int, seed: int) -> int:
    """Return which speaker says a sentence; the same answer for the same numbers."""
    draw = random.Random(f"{seed}/{sentence}")
    if draw.random() < PRODUCT_SHARE:
        return draw.randrange(2)
    return draw.randrange(2, len(SPEAKERS))


def pace_of(sentence: int, seed: int) -> float:
    """Return the factor of the speaker's speed for a sentence, near 1."""
    return random.Random(f"{seed}/{sentence}/pace").uniform(0.94, 1.06)
