"""The parts of a dashboard, and the forms of queries that several panels use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCOPE = 'namespace=~"$namespace"'
"""Every query is limited to the namespaces that are selected at the top of the dashboard."""

Unit = Literal["short", "s", "percentunit", "bytes", "reqps", "ops", "celsius", "watt", "none"]


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the name of its curves."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One graph: its title, the reason to look at it, its unit and its queries."""

    title: str
    why: str
    unit: Unit
    queries: tuple[Query, ...]
    warn_at: float | None = None
    """Value of a dashed line; the graph is yellow above it."""


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard; `uid` is also the name of its file and its part of links."""

    uid: str
    title: str
    question: str
    """The question that the dashboard answers."""
    rows: tuple[Row, ...]

    def queries(self) -> list[Query]:
        return [query for row in self.rows for panel in row.panels for query in panel.queries]


def series(metric: str, labels: str = "") -> str:
    """Select the series of a metric in the selected namespaces; `labels` are additional matchers."""
    return f"{metric}{{{SCOPE}{',' + labels if labels else ''}}}"


def rate(metric: str, labels: str = "") -> str:
    """Return the growth of a counter per second."""
    return f"rate({series(metric, labels)}[$__rate_interval])"


def per_second(metric: str, by: str = "", labels: str = "") -> Query:
    """Sum the growth of a counter per second, per value of the label `by`."""
    return Query(_sum(rate(metric, labels), by), _legend(by, metric))


def total(metric: str, by: str = "", labels: str = "") -> Query:
    """Sum a gauge per value of the label `by`."""
    return Query(_sum(series(metric, labels), by), _legend(by, metric))


def highest(metric: str, by: str, labels: str = "") -> Query:
    """Return a gauge's largest value per value of the label `by`."""
    return Query(f"max by ({by}) ({series(metric, labels)})", _legend(by, metric))


def quantiles(histogram: str, *wanted: float, by: str = "", name: str = "") -> tuple[Query, ...]:
    """Return quantiles of a histogram over the whole pool, or per value of the label `by`."""
    grouping = f"le, {by}" if by else "le"
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by ({grouping}) ({rate(histogram + '_bucket')}))",
            f"{name} p{quantile * 100:g}".strip() + (f" {{{{{by}}}}}" if by else ""),
        )
        for quantile in wanted
    )


def mean(histogram: str, name: str = "mean", by: str = "") -> Query:
    """Return the mean of a histogram's observations, per value of the label `by`."""
    total_of, number_of = _sum(rate(histogram + "_sum"), by), _sum(rate(histogram + "_count"), by)
    return Query(f"{total_of} / {number_of}", name)


def _sum(expr: str, by: str) -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


def _legend(by: str, metric: str) -> str:
    short = metric.removeprefix("lighttts_").removesuffix("_total").replace("_", " ")
    return " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) if by else short
