"""The report as one HTML page, with samples and pictures next to it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile

from training.report.measure import Measured, Sample
from training.report.pictures import curve, write_spectrogram

TARGETS = {
    "forced choice": "24 of 25",
    "open word error": "≤ 0.20",
    "DNSMOS overall": "≥ 3.2",
    "work per second": "≤ 0.20",
    "first audio p50": "≤ 0.25 s",
    "leading silence p95": "≤ 0.020 s",
    "speakers told apart": "all",
}
_PICTURES = 6
_STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:left}"


def write_page(
    measured: Measured, curves: Mapping[str, Sequence[tuple[float, float]]], folder: Path, note: str
) -> Path:
    """Write `report.html` into the folder of the samples and return its path."""
    for sample in measured.samples[:_PICTURES]:
        samples, _ = soundfile.read(folder / sample.file, dtype="float32")
        write_spectrogram(samples, (folder / sample.file).with_suffix(".png"))
    drawn = "".join(curve(points, title) for title, points in curves.items())
    body = (
        f"<h1>The voice of {html.escape(measured.directory)}</h1><p>{html.escape(note)}</p>{_figures(measured)}"
        f"<h2>Samples</h2>{_samples(measured.samples)}<h2>Training</h2>{drawn}"
    )
    path = folder / "report.html"
    page = f'<!doctype html><meta charset="utf-8"><title>Voice report</title><style>{_STYLE}</style>{body}'
    path.write_text(page, encoding="utf-8")
    return path


def lines(summary: Mapping[str, float]) -> list[str]:
    """The figures as lines of text, each with its target."""
    return [f"{name}: {_shown(value)}{_target(name)}" for name, value in summary.items()]


def _target(name: str) -> str:
    return f" (target {TARGETS[name]})" if name in TARGETS else ""


def _shown(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _figures(measured: Measured) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{_shown(value)}</td><td>{TARGETS.get(name, '')}</td></tr>"
        for name, value in measured.summary().items()
    )
    return f"<table><tr><th>figure</th><th>measured</th><th>target</th></tr>{rows}</table>"


def _samples(samples: Sequence[Sample]) -> str:
    made = []
    for number, sample in enumerate(samples):
        picture = f'<br><img src="{Path(sample.file).with_suffix(".png")}">' if number < _PICTURES else ""
        score = "" if sample.overall is None else f", DNSMOS {sample.overall:.2f}"
        made.append(
            f"<p><b>{html.escape(sample.text)}</b> ({sample.voice}{score})<br>"
            f"{'chosen' if sample.chosen else 'not chosen'}; recognised openly: {html.escape(sample.heard) or '–'}<br>"
            f'<audio controls src="{html.escape(sample.file)}"></audio>{picture}</p>'
        )
    return "".join(made)
