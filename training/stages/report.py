"""Stage report: measure a model directory with the whole stack."""

from __future__ import annotations

import os
from pathlib import Path

from training.plan import Plan
from training.report.measure import measure
from training.report.page import lines, write_page
from training.stages.text import HELD_OUT
from training.work import Work, write_json

_CURVES = (
    ("tokenizer", "phone"),
    ("tokenizer", "held back: right"),
    ("speaker", "loss"),
    ("lm", "token"),
    ("lm", "held back: token"),
    ("flow", "matching"),
    ("distil", "loss"),
    ("vocoder", "spectrum"),
)
"""Stages and figures that the report draws."""


def run(work: Work, plan: Plan, directory: Path) -> list[str]:
    """Speak the first sentences of the list, judge each among all of them; return the figures as lines."""
    sentences = HELD_OUT.read_text(encoding="utf-8").splitlines()
    measured = measure(directory, sentences[: plan.report_sentences], sentences, work.report)
    write_json(work.report / "figures.json", measured.as_json())
    curves = {
        f"{stage}, {name}": [(line["step"], line[name]) for line in work.logged(stage) if name in line]
        for stage, name in _CURVES
    }
    note = f"Load average while measuring: {os.getloadavg()[0]:.1f}. Times are of value on a quiet machine only."
    page = write_page(measured, curves, work.report, note)
    return [*lines(measured.summary()), note, f"page: {page}"]
