"""The planner: workers, memory, values and price."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli.bench.report import Target
from cli.main import app
from cli.simulator.plan import WITHIN, Bounds, Need, Plan, largest
from cli.simulator.plan_command import SERVICES, text
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import simulate
from services.decode.engine.backends import CostModel as DecodeCosts
from services.llm.engine.backends import CostModel as LlmCosts

NEED = Need(streams=500, voice_seconds=8.0, first_audio=0.3, llm_costs="llm.json", decode_costs="decode.json")


def test_workers_follow_from_the_streams_that_one_holds() -> None:
    plan = Plan.of(NEED, per_llm=400.0, per_decode=30.0)
    assert (plan.llm_workers, plan.decode_workers) == (2, 18)
    # Without the spare worker, each of the others has its share of the streams.
    assert plan.streams_per_decode == 30
    assert plan.streams_per_llm == 250
    # 30 streams with a prompt of 8 s and 8 s of speech, at 115 MB per second, beside the model.
    assert plan.decode_bytes == pytest.approx(4e9 + 30 * 16 * 115e6)
    assert plan.price_per_audio_hour(2.5) == pytest.approx(20 * 2.5 / 500)


def test_the_values_are_those_of_the_chart() -> None:
    values = yaml.safe_load(Plan.of(NEED, 400.0, 30.0).values())
    assert values["decode"]["replicaCount"] == 18
    assert values["decode"]["settings"]["decode_max_streams"] == 30
    assert values["llm"] == {"replicaCount": 2, "settings": {"max_running": 250, "total_tokens": 116_736}}


def test_an_estimate_is_marked() -> None:
    shown = text(Plan.of(replace(NEED, llm_costs="h100-estimate.json"), 400.0, 30.0), 2.5)
    assert "ESTIMATE" in shown
    assert "0.1000 per hour of audio" in shown
    assert "ESTIMATE" not in text(Plan.of(NEED, 400.0, 30.0), None)


def test_the_estimated_costs_are_those_of_the_documentation() -> None:
    llm = LlmCosts.read(SERVICES / "llm" / "costs" / "h100-estimate.json")
    decode = DecodeCosts.read(SERVICES / "decode" / "costs" / "h100-estimate.json")
    # docs/benchmarks.md: hops of one chunk (50 frames) of one and of 16 streams; a step of 256 rows, and its host.
    assert decode.seconds(1, 50) == pytest.approx(0.017, rel=0.02)
    assert decode.seconds(16, 16 * 50) == pytest.approx(0.050, rel=0.02)
    assert llm.step_s + 256 * llm.step_s_per_sequence == pytest.approx(0.00145 + 0.00096, rel=0.02)


@pytest.mark.parametrize("first", [0.3, 5.0, 40.0, 200.0])
def test_a_search_finds_what_is_held_in_few_loads(first: float) -> None:
    tried: list[float] = []

    def holds(streams: float) -> bool:
        tried.append(streams)
        return streams <= 37.0

    found = largest(holds, first, math.inf)
    assert 37.0 / WITHIN <= found <= 37.0
    assert len(tried) == len(set(tried)) <= 16
    assert largest(holds, first, 20.0) == 20.0
    assert largest(lambda streams: False, first, math.inf) == 0.0


def test_bounds_are_what_a_busy_worker_could_serve(tmp_path: Path) -> None:
    llm, decode = tmp_path / "llm.json", tmp_path / "decode.json"
    llm.write_text(json.dumps({"step_s": 0.004, "step_s_per_sequence": 0.0009, "prefill_s_per_token": 0.0}))
    decode.write_text(json.dumps({"batch_s": 0.8, "stream_s": 0.0, "frame_s": 0.0}))
    bounds = Bounds.of(replace(NEED, llm_costs=str(llm), decode_costs=str(decode)))
    # 25 steps per second take 0.1 s, and 22.5 ms per stream; batches of 16 hops of one second take 0.8 s.
    assert bounds.llm == pytest.approx(40.0)
    assert bounds.decode == pytest.approx(20.0)


def test_a_load_that_is_certain_to_miss_its_target_is_not_simulated_to_its_end() -> None:
    load = {"rate": 40.0, "seconds": 1.0, "sentence_seconds": 1.2, "speed": 10.0, "decode": {"decode_max_streams": 1}}
    scenario = make_scenario(load)
    whole, stopped = simulate(scenario), simulate(scenario, Target(0.3))
    assert not Target(0.3).held(whole.report)
    assert stopped.given_up
    assert len(stopped.sessions) < len(whole.sessions) / 2
    held = make_scenario({**load, "rate": 3.0})
    assert simulate(held, Target(0.3)).report == simulate(held).report
    assert not simulate(held, Target(0.3)).given_up


def test_the_command_sizes_a_small_load(tmp_path: Path) -> None:
    llm, decode = tmp_path / "llm.json", tmp_path / "decode.json"
    llm.write_text(json.dumps({"step_s": 0.005, "step_s_per_sequence": 0.0, "prefill_s_per_token": 0.0}))
    decode.write_text(json.dumps({"batch_s": 0.05, "stream_s": 0.25, "frame_s": 0.0}))
    command = ["plan", "--streams", "3", "--voice-seconds", "1.2", "--sessions", "5", "--slo", "1"]
    command += ["--llm-costs", str(llm), "--decode-costs", str(decode)]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    values = yaml.safe_load(shown.output.split("values.yaml:")[1].split("Costs:")[0])
    assert values["llm"]["replicaCount"] == 1
    assert values["decode"]["replicaCount"] >= 2  # one of them is the spare one
    late = CliRunner().invoke(app, [*command[:-4], "--slo", "0.01", *command[-4:]])
    assert late.exit_code == 1
    assert "--slo" in late.output
