"""Draws a small line chart as SVG text, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 48, 44
COLOURS = ("#b04a2f", "#2f6fb0", "#4a8a3a", "#7a4fa0")
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in any order, joined from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(curves: Sequence[Curve], x_title: str, y_title: str, top: float) -> str:
    """Return a chart of the curves. A point above `top` is drawn at the edge."""
    right = max((x for curve in curves for x, _ in curve.points), default=1.0) * 1.05

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / right, min(y, top) / top
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for x in ticks(right):
        at, bottom = place(x, 0)
        parts.append(f'<text x="{at:.0f}" y="{bottom + 16:.0f}" text-anchor="middle">{x:g}</text>')
    for y in ticks(top):
        start, at = place(0, y)
        parts.append(f'<path d="M{start:.0f} {at:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{start - 6:.0f}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    parts.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(f'<text x="8" y="16">{escape(y_title)}</text>')
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        places = [place(x, y) for x, y in sorted(curve.points) if math.isfinite(x) and math.isfinite(y)]
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(f'<text x="{LEFT + 300 * index}" y="36" fill="{colour}">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(end: float, wanted: int = 6) -> Iterator[float]:
    """Yield about `wanted` round numbers from 0 to `end`."""
    size = 10 ** math.floor(math.log10(end / wanted))
    step = next(size * one for one in STEPS if size * one >= end / wanted)
    for number in range(int(end / step) + 1):
        yield number * step
