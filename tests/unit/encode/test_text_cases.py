"""The table of cases: how text is read and cleaned, by kind, and what docs/text.md says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.encode.text.cleaning import clean
from services.encode.text.normalise import Normaliser
from tools.text_reference import CASES, page

PAGE = Path(__file__).parents[3] / "docs" / "text.md"
TABLE: dict[str, Any] = yaml.safe_load(CASES.read_text(encoding="utf-8"))
READINGS = [
    pytest.param(language, section["cases"], id=f"{language}: {section['kind']}")
    for language, sections in TABLE["readings"].items()
    for section in sections
]
CLEANING = [pytest.param(section["cases"], id=section["kind"]) for section in TABLE["cleaning"]]


@pytest.fixture(scope="module")
def normaliser() -> Normaliser:
    pytest.importorskip("wetext")
    return Normaliser("auto")


@pytest.mark.parametrize(("language", "cases"), READINGS)
def test_readings(normaliser: Normaliser, language: str, cases: list[list[str]]) -> None:
    assert [[written, normaliser(written, language)] for written, _ in cases] == cases


@pytest.mark.parametrize("cases", CLEANING)
def test_cleaning(cases: list[list[str]]) -> None:
    assert [[written, clean(written)] for written, _ in cases] == cases


def test_known_wrong_readings(normaliser: Normaliser) -> None:
    wrong = TABLE["wrong"]
    assert [normaliser(case["written"], case["language"]) for case in wrong] == [case["read"] for case in wrong]


def test_the_page_has_the_cases_and_the_rules() -> None:
    current = PAGE.read_text(encoding="utf-8")
    assert page(current) == current, "run: make format"
