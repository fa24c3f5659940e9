"""`python -m tools.text_reference docs/text.md`: writes the tables of cases and the rules into the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from services.encode.text.reading.chinese import table as chinese
from services.encode.text.reading.english import table
from tools.arguments import path_to_write

CASES = Path(__file__).parents[1] / "tests" / "data" / "text_cases.yaml"
_LANGUAGES = {"en": "English", "zh": "Chinese", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian",
              "pt": "Portuguese", "nl": "Dutch",
              "ja": "Japanese", "ko": "Korean", "ru": "Russian", "eu": "Basque, which num2words lacks"}  # fmt: skip


def page(current: str) -> str:
    """Return the page with its generated parts written again."""
    cases: dict[str, Any] = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    parts = {"rules": _rules(), "readings": _readings(cases), "cleaning": _cleaning(cases), "wrong": _wrong(cases)}
    for name, text in parts.items():
        part = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", current, flags=re.DOTALL)
        if part is None:
            raise ValueError(f"the page must have the part {name}: <!-- {name} --> ... <!-- end -->")
        current = f"{current[: part.start()]}\n{text}\n{current[part.end() :]}"
    return current


def _rules() -> str:
    lists = {
        "English, every sentence": table.WORDS,
        "English, sentences with digits": table.NUMBERS,
        "English, last": table.REST,
        "Chinese, before wetext": chinese.BEFORE,
        "Chinese, after wetext": chinese.AFTER,
    }
    rows = [f"| {name} | {', '.join(rule.name for rule in rules)} |" for name, rules in lists.items()]
    return "\n".join(["| where | rules |", "|---|---|", *rows])


def _readings(cases: dict[str, Any]) -> str:
    parts = []
    for language, sections in cases["readings"].items():
        parts.append(f"### {_LANGUAGES[language]}\n")
        for section in sections:
            heading = f"**{section['kind'].capitalize()}**" if len(sections) > 1 else ""
            parts += [f"{heading}\n"] if heading else []
            parts.append(_table("written", "read", section["cases"]))
    return "\n".join(parts).rstrip()


def _cleaning(cases: dict[str, Any]) -> str:
    parts = []
    for section in cases["cleaning"]:
        parts += [f"**{section['kind'][0].upper()}{section['kind'][1:]}**\n"]
        parts.append(_table("written", "cleaned", section["cases"]))
    return "\n".join(parts).rstrip()


def _wrong(cases: dict[str, Any]) -> str:
    rows = [f"| {_cell(case['written'])} | {_cell(case['read'])} | {case['why']} |" for case in cases["wrong"]]
    return "\n".join(["| written | read | why |", "|---|---|---|", *rows])


def _table(left: str, right: str, cases: list[list[str]]) -> str:
    rows = [f"| {_cell(written)} | {_cell(read)} |" for written, read in cases]
    return "\n".join([f"| {left} | {right} |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    """Return `text` as code, so that no mark in it formats the page; invisible characters by their code."""
    shown = "".join(char if char.isprintable() or char in "\u200d" else f"[U+{ord(char):04X}]" for char in text)
    shown = shown.replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`" if shown else ""


def main() -> None:
    path = path_to_write(__doc__)
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
