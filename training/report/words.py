"""Word errors of a recogniser."""

from __future__ import annotations

import re


def spelled(text: str) -> str:
    """Return the words of a text or of a recogniser's result: lower case, no marks, no numbers of pronunciations."""
    return " ".join(re.sub(r"[^a-z' ]", "", re.sub(r"\(\d+\)", "", text.lower()).replace("-", " ")).split())


def word_errors(wanted: str, heard: str) -> int:
    """Return the least number of words to insert, drop or replace (Levenshtein's distance)."""
    right, words = wanted.split(), heard.split()
    row = list(range(len(words) + 1))
    for number, word in enumerate(right, start=1):
        before, row = row, [number]
        for column, other in enumerate(words):
            row.append(min(before[column] + (word != other), before[column + 1] + 1, row[column] + 1))
    return row[-1]
