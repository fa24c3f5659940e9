"""Stage text: choose the sentences."""

from __future__ import annotations

import json
from pathlib import Path

from training.plan import Plan
from training.teacher.pronounce import phones_of
from training.text.select import balanced, pronounceable, words_of
from training.text.templates import Templates
from training.text.wordnet import read_wordnet
from training.work import Work, write_json

HELD_OUT = Path(__file__).parents[1] / "data" / "heldout50.txt"
"""The sentences of the report; the training set has none of them."""
TEMPLATE_EVERY = 4
"""One sentence of this many comes from a template."""


def run(work: Work, plan: Plan, wordnet: Path) -> list[str]:
    """Write and return the list of sentences. An existing list stays: speech refers to its numbers."""
    if not work.sentences.is_file():
        write_json(work.sentences, choose(plan, wordnet))
    sentences: list[str] = json.loads(work.sentences.read_text(encoding="utf-8"))
    return sentences


def choose(plan: Plan, wordnet: Path) -> list[str]:
    """Return the sentences in the order in which they are spoken, so that the first hour is balanced too."""
    refused = {_key(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()}
    made = plan.sentences // TEMPLATE_EVERY
    found = pronounceable((text for text in read_wordnet(wordnet) if _key(text) not in refused), phones_of)
    chosen = balanced(found, plan.sentences - made, plan.seed)
    templates = Templates(plan.seed)
    seen = set(refused)
    order: list[str] = []
    for text in chosen:
        order.append(text)
        if len(order) % TEMPLATE_EVERY == TEMPLATE_EVERY - 1:
            order.append(_new(templates, seen))
    return order


def _new(templates: Templates, seen: set[str]) -> str:
    for _ in range(100):
        text = templates.draw()
        if _key(text) not in seen:
            break
    seen.add(_key(text))
    return text


def _key(text: str) -> str:
    return " ".join(word.lower() for word in words_of(text))
