"""The planner's live metrics, from a small Prometheus HTTP API."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import prometheus_client
import pytest
import yaml
from typer.testing import CliRunner

import gateway.metrics
import services.llm.metrics
from cli.app import app
from cli.simulator.plan import Need, Plan
from cli.simulator.plan_command import SERVICES
from cli.simulator.prometheus import QUERIES, PrometheusError, measured, read_live
from services.decode.engine.backends import AudioFormat, CostModel, SimulatedBackend
from services.decode.engine.engine import DecodeEngine
from services.decode.metrics import EngineCollector

FIGURES = {
    "max_over_time": 2.4,
    "audio_delivered_seconds_total": 1200.0,
    "streams_ended_total": 1000.0,
    "decode_streams_limit": 3,
    "batch_seconds_count": 4000,
    "batch_seconds_sum": 1900.0,
    "decode_hops_total": 5000,
    "decode_tokens_total": 30_000,
    "llm_engine_turns": 2,
    "step_duration_seconds_count": 20_000,
    "step_duration_seconds_sum": 60.0,
    "llm_batch_size_sum": 50_000,
    "prefill_tokens_total": 90_000,
}
"""Value by a part of the query; the first that fits."""


class Server(ThreadingHTTPServer):
    """A Prometheus server that answers instant queries."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.queries: list[str] = []
        self.figures: dict[str, float] = dict(FIGURES)
        self.raw: tuple[int, str] | None = None
        """Status and body of every answer, instead of figures."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)["query"][0]
        self.server.queries.append(query)
        found = [value for name, value in self.server.figures.items() if name in query]
        result = [{"metric": {}, "value": [1764180000.0, str(value)]} for value in found[:1]]
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        status, text = self.server.raw or (200, json.dumps(body))
        if parts.path != "/api/v1/query":
            status, text = 404, "not found"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def server(running: Server) -> Server:
    running.queries.clear()
    running.figures, running.raw = dict(FIGURES), None
    return running


@pytest.fixture
def costs(tmp_path: Path) -> tuple[Path, Path]:
    """Cost files with which the measured batches should have taken 950 s, and the steps 120 s."""
    llm, decode = tmp_path / "my-llm.json", tmp_path / "my-decode.json"
    llm.write_text(json.dumps({"step_s": 0.001, "step_s_per_sequence": 0.002, "prefill_s_per_token": 0.0}))
    decode.write_text(json.dumps({"batch_s": 0.05, "stream_s": 0.03, "frame_s": 0.01, "holdback_frames": 7}))
    return llm, decode


def test_figures_are_those_of_the_range_and_of_the_selected_series(server: Server) -> None:
    live = read_live(server.url + "/", "12h", '{namespace="speech"}')
    assert live.peak == 2.4
    assert live.utterance_seconds == pytest.approx(1.2)
    assert (live.decode_workers, live.llm_workers) == (3, 2)
    assert len(server.queries) == len(QUERIES)
    assert all('namespace="speech"' in query for query in server.queries)
    assert all("[12h" in query for query in server.queries if "increase" in query or "max_over_time" in query)
    assert any('{namespace="speech",outcome="finished"}' in query for query in server.queries)
    server.queries.clear()
    read_live(server.url, "7d")
    assert any('{outcome="finished"}' in query for query in server.queries)


def test_costs_are_scaled_to_the_measured_service_times(
    server: Server, costs: tuple[Path, Path], tmp_path: Path
) -> None:
    llm, decode = costs
    need = Need(1, 8.0, 0.3, str(llm), str(decode))
    found, note = measured(need, read_live(server.url, "7d"), tmp_path)
    assert (found.streams, found.voice_seconds) == (3, 1.2)
    # 4000 batches of 0.05 s, 5000 hops of 0.03 s and 60,000 frames of 0.01 s; they took 1900 s.
    assert CostModel.read(Path(found.decode_costs)) == CostModel(0.1, 0.06, 0.02, 7)
    # 20,000 steps of 1 ms and 50,000 sequences of 2 ms; they took 60 s.
    assert json.loads(Path(found.llm_costs).read_text())["step_s"] == pytest.approx(0.0005)
    assert "2.00 and 0.50 times" in note
    fixed, _ = measured(need, read_live(server.url, "7d"), tmp_path, fixed_streams=40, fixed_seconds=5.0)
    assert (fixed.streams, fixed.voice_seconds) == (40, 5.0)


def test_the_command_plans_from_live_metrics(
    server: Server, costs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[CostModel] = []

    def make_plan(need: Need) -> Plan:  # test_plan.py simulates
        planned.append(CostModel.read(Path(need.decode_costs)))
        return Plan.of(need, 10.0, 2.0)

    monkeypatch.setattr("cli.simulator.plan.make_plan", make_plan)
    llm, decode = costs
    command = ["plan", "--from-prometheus", server.url]
    command += ["--llm-costs", str(llm), "--decode-costs", str(decode)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "at most 2 streams at once, utterances of 1.2 s; now 3 decode and 2 llm workers" in shown.output
    assert "3 streams of 1.2 s" in shown.output
    assert "as measured by your workers" in shown.output
    values = yaml.safe_load(shown.output.split("values.yaml:")[1].split("Costs:")[0])
    assert values["decode"]["replicaCount"] == 3  # for 3 streams, and a spare one
    assert planned == [CostModel(0.1, 0.06, 0.02, 7)]
    without = CliRunner().invoke(app, ["plan"])
    assert without.exit_code == 1
    assert "--streams" in without.output


def test_errors_say_what_to_do(server: Server) -> None:
    def error(url: str = "", span: str = "7d", selector: str = "") -> str:
        with pytest.raises(PrometheusError) as caught:
            read_live(url or server.url, span, selector)
        return str(caught.value)

    assert "--range 'a week'" in error(span="a week")
    assert "cannot reach Prometheus at --from-prometheus http://127.0.0.1:1" in error("http://127.0.0.1:1")
    assert "--from-prometheus" in error("prometheus:9090")
    assert "give the server's root" in error(server.url + "/graph")
    server.figures.pop("decode_streams_limit")
    assert "no series lighttts_decode_streams_limit with pod" in error(selector='pod="x"')
    server.figures = {**FIGURES, "batch_seconds_count": 3}
    assert "hardly any load in the last 7d" in error()
    server.figures = {**FIGURES, "decode_hops_total": float("nan")}
    assert "choose a --range with load" in error()
    server.raw = 400, json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error: unexpected {"})
    assert "parse error: unexpected {" in error()
    server.raw = 200, json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}})
    assert "something other than a vector" in error()
    server.raw = 200, "<html>sign in</html>"
    assert "give the server's root" in error()


def test_the_services_export_every_metric_that_is_asked_for() -> None:
    assert gateway.metrics is not None
    assert services.llm.metrics is not None
    engine = DecodeEngine(SimulatedBackend(CostModel(0.0, 0.0, 0.0), AudioFormat()))
    collector = EngineCollector(engine)
    try:
        families = list(prometheus_client.REGISTRY.collect())
    finally:
        collector.close()
        engine.close()
    counted = {"counter": ("_total",), "gauge": ("",), "histogram": ("_count", "_sum")}
    exported = {family.name + end for family in families for end in counted.get(family.type, ())}
    asked = {name for query in QUERIES.values() for name in re.findall(r"lighttts_\w+", query)}
    assert asked <= exported


def test_the_shipped_costs_can_be_scaled_and_say_so(server: Server, tmp_path: Path) -> None:
    llm, decode = (str(SERVICES / service / "costs" / "hopper.json") for service in ("llm", "decode"))
    need = Need(1, 8.0, 0.3, llm, decode, prompt_seconds=3.0)
    found, _ = measured(need, read_live(server.url, "7d"), tmp_path)
    assert CostModel.read(Path(found.decode_costs)).holdback_frames == 8
    source = json.loads(Path(found.decode_costs).read_text())["measured"]
    assert " times, by live metrics: " in source
    assert "H200" in source
