"""The benchmarks' chart: well formed, every point in its place."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from benchmarks.plot import Curve, line_chart, ticks

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_shows_every_point_that_is_a_number() -> None:
    curves = [Curve("ours & theirs", [(10.0, 0.2), (20.0, 9.0)]), Curve("empty", [(5.0, math.nan)])]
    root = ElementTree.fromstring(line_chart(curves, "streams", "seconds", top=1.0))  # noqa: S314 - made just now
    circles = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{SVG}circle")]
    assert len(circles) == 2
    (left, low), (right, high) = sorted(circles)
    assert left < right
    assert high < low  # y grows downwards
    assert {"ours & theirs", "empty", "streams", "seconds"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_a_value_beyond_the_top_is_drawn_at_the_edge() -> None:
    inside, outside = (line_chart([Curve("", [(1.0, y)])], "", "", top=1.0) for y in (1.0, 50.0))
    assert inside == outside


@pytest.mark.parametrize("end", [0.9, 7.0, 61.0, 1234.0])
def test_ticks_are_few_and_round(end: float) -> None:
    found = list(ticks(end))
    assert found[0] == 0
    assert found[-1] <= end
    assert 3 <= len(found) <= 7
