"""Sentences of templates: numbers, times, dates, names, spelled letters, and the product's own words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml

T = TypeVar("T")

_LISTS = yaml.safe_load((Path(__file__).parents[1] / "data" / "words.yaml").read_text(encoding="utf-8"))
ONES, TENS, ORDINALS, NAMES, PLACES, DAYS, MONTHS, NOUNS, ADJECTIVES, VERBS, UNITS = (
    tuple(map(str, _LISTS[name]))
    for name in (
        "ones",
        "tens",
        "ordinals",
        "names",
        "places",
        "days",
        "months",
        "nouns",
        "adjectives",
        "verbs",
        "units",
    )
)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def number(n: int) -> str:
    """Return the words of 0 <= n < 1,000,000."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + ("" if n % 10 == 0 else f" {ONES[n % 10]}")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + ("" if n % 100 == 0 else f" {number(n % 100)}")
    return f"{number(n // 1000)} thousand" + ("" if n % 1000 == 0 else f" {number(n % 1000)}")


class Templates:
    """Draws sentences; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def draw(self) -> str:
        """Return one sentence."""
        text = self._pick(self._makers())()
        return text[0].upper() + text[1:]

    def _makers(self) -> list[Callable[[], str]]:
        pick, below = self._pick, self._random.randint

        def noun() -> str:
            return pick(NOUNS)

        def adjective() -> str:
            return pick(ADJECTIVES)

        def name() -> str:
            return pick(NAMES)

        def place() -> str:
            return pick(PLACES)

        return [
            lambda: f"The {noun()} is {adjective()}.",
            lambda: f"The {adjective()} {noun()} {pick(VERBS)} now.",
            lambda: f"Your {pick(['order', 'ticket', 'room', 'flight'])} number is {self._digits(below(3, 6))}.",
            lambda: f"Hello {name()}, this is {name()}.",
            lambda: f"{name()} lives in {place()}, but {name()} lives in {place()}.",
            lambda: f"The train to {place()} leaves at {self._time()}.",
            lambda: f"It is {pick(DAYS)}, {self._date()}.",
            lambda: f"The meeting on {self._date()} begins at {self._time()}.",
            lambda: f"The answer is {number(below(0, 9999))}.",
            lambda: f"It costs {number(below(2, 999))} {pick(UNITS)}.",
            lambda: f"{name()} has {number(below(2, 99))} {pick(['books', 'files', 'tests', 'friends', 'messages'])}.",
            lambda: f"The year {self._year()} was {pick(['good', 'cold', 'long', 'quiet'])} for {name()}.",
            lambda: f"Good {pick(['morning', 'evening', 'afternoon'])}, {name()}, welcome to {place()}.",
            lambda: f"Please {pick(['start', 'stop', 'test', 'open', 'close', 'check'])} the {adjective()} {noun()}.",
            lambda: f"How many {noun()}s are in the {adjective()} {noun()}?",
            lambda: f"The {noun()} sends {pick(['a', 'the', 'one'])} {noun()} to the {adjective()} {noun()}.",
            lambda: f"The weather in {place()} is {pick(['cold', 'warm', 'sunny', 'wet', 'windy'])} on {pick(DAYS)}.",
            lambda: f"Thank you, {name()}, see you on {pick(DAYS)}.",
            lambda: f"The code is {self._letters(below(3, 5))}.",
            lambda: f"My name is {name()}, that is {self._letters(below(3, 6))}.",
            lambda: f"The {pick(ORDINALS)} {noun()} is {adjective()}, the {pick(ORDINALS)} is {adjective()}.",
            lambda: f"This is the {adjective()} {noun()} speaking.",
            lambda: f"It is {number(below(2, 99))} point {self._digits(below(1, 2))} {pick(UNITS)}.",
            lambda: f"Did {name()} call {name()} at {self._time()}?",
        ]

    def _pick(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def _digits(self, count: int) -> str:
        return " ".join(self._random.choice(ONES[:10]) for _ in range(count))

    def _letters(self, count: int) -> str:
        return " ".join(self._random.choice(LETTERS) for _ in range(count))

    def _time(self) -> str:
        hour, minute = self._random.choice(ONES[1:13]), self._random.choice([0, 5, 10, 15, 20, 30, 40, 45, 50])
        return f"{hour} o'clock" if minute == 0 else f"{hour} {'oh ' if minute < 10 else ''}{number(minute)}"

    def _date(self) -> str:
        return f"{self._random.choice(MONTHS)} {self._random.choice(ORDINALS)}"

    def _year(self) -> str:
        return f"{number(self._random.randint(17, 20))} {number(self._random.randint(10, 99))}"
