"""What an installation's own metrics say for a plan: its peak, the length of its utterances, and its service times."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from cli.simulator.plan import FRAMES_PER_TOKEN, TOKEN_RATE, Need
from services.decode.engine.backends import CostModel as DecodeCosts
from services.llm.engine.backends import CostModel as LlmCosts

LEAST_BATCHES = 100
"""Fewer batches or steps say too little about service times."""
TIMEOUT_SECONDS = 30.0
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""Lengths of requests that can be planned."""
_RANGE = re.compile(r"([0-9]+(ms|[smhdwy]))+")
_NOT_TIMES = ("measured", "tokens_per_text_id", "holdback_frames")
"""Fields of cost files that are no times."""

QUERIES: Mapping[str, str] = {
    "peak": "max_over_time(sum(rate(lighttts_gateway_audio_delivered_seconds_total{%(by)s}[5m]))[%(range)s:1m])",
    "audio": "sum(increase(lighttts_gateway_audio_delivered_seconds_total{%(by)s}[%(range)s]))",
    "utterances": 'sum(increase(lighttts_decode_streams_ended_total{%(by_and)soutcome="finished"}[%(range)s]))',
    "decode_workers": "count(lighttts_decode_streams_limit{%(by)s})",
    "decode_batches": "sum(increase(lighttts_decode_batch_seconds_count{%(by)s}[%(range)s]))",
    "decode_seconds": "sum(increase(lighttts_decode_batch_seconds_sum{%(by)s}[%(range)s]))",
    "decode_hops": "sum(increase(lighttts_decode_hops_total{%(by)s}[%(range)s]))",
    "decode_tokens": "sum(increase(lighttts_decode_tokens_total{%(by)s}[%(range)s]))",
    "llm_workers": "count(lighttts_llm_engine_turns{%(by)s})",
    "llm_steps": "sum(increase(lighttts_llm_step_duration_seconds_count{%(by)s}[%(range)s]))",
    "llm_seconds": "sum(increase(lighttts_llm_step_duration_seconds_sum{%(by)s}[%(range)s]))",
    "llm_sequences": "sum(increase(lighttts_llm_batch_size_sum{%(by)s}[%(range)s]))",
    "llm_prefilled": "sum(increase(lighttts_llm_prefill_tokens_total{%(by)s}[%(range)s]))",
}
"""The peak is a mean over five minutes, because audio is sent faster than it is played."""


class PrometheusError(Exception):
    """The metrics cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Live:
    """Figures of an installation over a range of time."""

    peak: float
    """Most streams that played at once, as means over five minutes."""
    audio: float
    """Seconds of audio delivered."""
    utterances: float
    decode_workers: float
    llm_workers: float
    """Workers now."""
    decode_batches: float
    decode_seconds: float
    decode_hops: float
    decode_tokens: float
    llm_steps: float
    llm_seconds: float
    llm_sequences: float
    """Sequences of all steps."""
    llm_prefilled: float

    @property
    def utterance_seconds(self) -> float:
        """Mean audio of an utterance."""
        return self.audio / self.utterances

    def decode_factor(self, costs: DecodeCosts, prompt_seconds: float) -> float:
        """Return how many times the times of `costs` the measured batches took."""
        frames = FRAMES_PER_TOKEN * self.decode_tokens
        pairs = frames * TOKEN_RATE * (prompt_seconds + self.utterance_seconds / 2)
        expected = costs.batch_s * self.decode_batches + costs.stream_s * self.decode_hops
        return self.decode_seconds / (expected + costs.frame_s * frames + costs.pair_s * pairs)

    def llm_factor(self, costs: LlmCosts) -> float:
        """Return how many times the times of `costs` the measured steps took."""
        expected = costs.step_s * self.llm_steps + costs.step_s_per_sequence * self.llm_sequences
        return self.llm_seconds / (expected + costs.prefill_s_per_token * self.llm_prefilled)


def read_live(url: str, span: str, selector: str = "", transport: httpx.BaseTransport | None = None) -> Live:
    """Ask a Prometheus server for the figures of the last `span`, such as 7d. Raises PrometheusError.

    `selector` restricts the series, such as `namespace="speech"`.
    """
    if not _RANGE.fullmatch(span):
        raise PrometheusError(f"--range {span!r} is not a length of time as Prometheus writes it, such as 12h or 7d")
    by = selector.strip().strip("{},")
    names = {"by": by, "by_and": f"{by}," if by else "", "range": span}
    try:
        with httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT_SECONDS, transport=transport) as client:
            found = {name: _ask(client, query % names, by, span) for name, query in QUERIES.items()}
    except httpx.InvalidURL as error:
        raise PrometheusError(f"--from-prometheus {url!r} is not a URL, such as http://prometheus:9090") from error
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise PrometheusError(f"cannot reach Prometheus at --from-prometheus {url}: {reason}") from error
    live = Live(**found)
    if min(live.decode_batches, live.llm_steps) < LEAST_BATCHES or live.utterances < 1 or live.peak <= 0:
        raise PrometheusError(
            f"there was hardly any load in the last {span}: {live.utterances:.0f} utterances, "
            f"{live.decode_batches:.0f} decode batches, {live.llm_steps:.0f} llm steps; choose a longer --range"
        )
    return live


def _ask(client: httpx.Client, query: str, by: str, span: str) -> float:
    """Return the single value of a query."""
    response = client.get("/api/v1/query", params={"query": query})
    try:
        answer: Any = response.json()
        status = answer["status"]
    except (ValueError, TypeError, KeyError) as error:
        raise PrometheusError(
            f"--from-prometheus {client.base_url} answers {response.status_code} without Prometheus' JSON at "
            "/api/v1/query; give the server's root, with its path prefix if it has one"
        ) from error
    if status != "success":
        raise PrometheusError(f"Prometheus refuses {query}: {answer.get('error', response.status_code)}")
    try:
        result = answer["data"]["result"]
        values = [float(one["value"][1]) for one in result]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise PrometheusError(f"Prometheus answers {query} with something other than a vector") from error
    if not values:
        where = f" with {by}" if by else ""
        metric = re.search(r"lighttts_\w+", query)
        raise PrometheusError(
            f"Prometheus has no series {metric.group() if metric else query}{where} in the last {span}; "
            "check that it scrapes the services, and --selector"
        )
    if not math.isfinite(values[0]):
        raise PrometheusError(f"Prometheus answers {query} with {values[0]}; choose a --range with load")
    return values[0]


def measured(
    need: Need, live: Live, folder: Path, *, fixed_streams: int | None = None, fixed_seconds: float | None = None
) -> tuple[Need, str]:
    """Return what an installation needs by its metrics, and what they say; `folder` takes the cost files.

    Raises PrometheusError for cost files that cannot be read.
    """
    seconds = fixed_seconds or min(LONGEST_SECONDS, max(SHORTEST_SECONDS, live.utterance_seconds))
    try:
        decode = live.decode_factor(DecodeCosts.read(Path(need.decode_costs)), need.prompt_seconds)
        llm = live.llm_factor(LlmCosts.read(Path(need.llm_costs)))
    except ValueError as error:
        raise PrometheusError(str(error)) from error
    names = f"{Path(need.llm_costs).stem} (llm) and {Path(need.decode_costs).stem} (decode)"
    note = (
        f"at most {live.peak:.0f} streams at once, utterances of {live.utterance_seconds:.1f} s; now "
        f"{live.decode_workers:.0f} decode and {live.llm_workers:.0f} llm workers, whose batches and steps take "
        f"{decode:.2f} and {llm:.2f} times the times of the cost files"
    )
    return replace(
        need,
        streams=fixed_streams or max(1, math.ceil(live.peak)),
        voice_seconds=seconds,
        llm_costs=str(scaled(Path(need.llm_costs), llm, folder, "llm")),
        decode_costs=str(scaled(Path(need.decode_costs), decode, folder, "decode")),
        costs_note=f"the shape of {names}, times {llm:.2f} and {decode:.2f} as measured by your workers",
    ), note


def scaled(costs: Path, factor: float, folder: Path, name: str) -> Path:
    """Write a cost file whose times are `factor` times those of another one; return its path."""
    fields = json.loads(costs.read_text(encoding="utf-8"))
    changed = {field: value if field in _NOT_TIMES else value * factor for field, value in fields.items()}
    changed["measured"] = f"{factor:.2f} times, by live metrics: {fields.get('measured', costs.name)}"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    return path
