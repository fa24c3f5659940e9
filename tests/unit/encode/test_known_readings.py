"""The table of wrong readings in docs/text.md agrees with the normaliser."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from services.encode.text.normalise import Language, Normaliser, language_of

LINES = (Path(__file__).parents[3] / "docs" / "text.md").read_text(encoding="utf-8").splitlines()
ROWS = [match.groups() for line in LINES if (match := re.fullmatch(r"\| (?!written)(.+) \| (.+) \|", line))]


@pytest.mark.parametrize(("written", "read"), ROWS)
def test_reading(written: str, read: str) -> None:
    language: Language = language_of(written)
    if language == "zh" and importlib.util.find_spec("wetext") is None:
        pytest.skip("wetext is not installed")
    assert Normaliser("auto")(written, language) == read
