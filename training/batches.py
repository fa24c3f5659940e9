"""Draws of utterances that several stages share."""

from __future__ import annotations

import random
from collections import defaultdict

from training.store import Store


def long_enough(store: Store, frames: int, held_back: int) -> list[int]:
    """The utterances of at least `frames`, without those held back. Raises ValueError if there are none."""
    usable = [i for i in range(held_back, len(store)) if store.places[i].utterance.frames >= frames]
    if not usable:
        raise ValueError(f"no utterance has {frames} frames: the stage speech must make more")
    return usable


def by_speaker(store: Store, held_back: int) -> dict[int, list[int]]:
    """The utterances of each speaker, without those held back."""
    found: dict[int, list[int]] = defaultdict(list)
    for index in range(held_back, len(store)):
        found[store.places[index].utterance.speaker].append(index)
    return dict(found)


def same_speaker(groups: dict[int, list[int]], draw: random.Random, count: int) -> list[int]:
    """Draw `count` utterances of one speaker; speakers are as frequent as their utterances."""
    speakers = sorted(groups)
    speaker = draw.choices(speakers, [len(groups[one]) for one in speakers])[0]
    return draw.sample(groups[speaker], min(count, len(groups[speaker])))
