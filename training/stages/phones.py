"""Stage phones: how each sentence is pronounced. The stage `speech` then needs no lexicon and no tagger."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from training.teacher.pronounce import Pronouncer, Pronunciation, SpokenWord
from training.work import Progress, Work, write_json


def run(
    work: Work, sentences: Sequence[str], pronouncer: Callable[[], Callable[[str], Pronunciation]] = Pronouncer
) -> int:
    """Write the pronunciation of every sentence, unless it exists; return how many have one."""
    if not work.phones.is_file() or len(read(work)) != len(sentences):
        pronounce = pronouncer()
        progress = Progress("phones", 0, len(sentences), "sentences")
        found: list[dict[str, Any] | None] = []
        for text in sentences:
            found.append(_plain(pronounce, text))
            progress.show(len(found))
        write_json(work.phones, found)
    return sum(said is not None for said in read(work))


def read(work: Work) -> list[Pronunciation | None]:
    """Return the pronunciation of every sentence, None where there is none. Raises FileNotFoundError."""
    if not work.phones.is_file():
        raise FileNotFoundError(f"{work.phones} does not exist; run the stage phones first")
    entries = json.loads(work.phones.read_text(encoding="utf-8"))
    return [None if entry is None else _pronunciation(entry) for entry in entries]


def _plain(pronounce: Callable[[str], Pronunciation], text: str) -> dict[str, Any] | None:
    """A pronunciation as JSON holds it; None if the text has a word that the lexicon lacks."""
    try:
        said = pronounce(text)
    except ValueError:
        return None
    words = [[word.begin, word.end, word.phones] for word in said.words]
    return {"phones": said.phones, "words": words, "spans": [list(span) for span in said.spans]}


def _pronunciation(entry: dict[str, Any]) -> Pronunciation:
    words = tuple(SpokenWord(*word) for word in entry["words"])
    return Pronunciation(entry["phones"], words, tuple((first, last) for first, last in entry["spans"]))
