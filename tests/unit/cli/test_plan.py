"""The planner: workers, memory, values and price."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cli.app import app
from cli.bench.report import Target
from cli.simulator.command import fail_without
from cli.simulator.plan import WITHIN, Bounds, Need, Plan, largest, make_plan
from cli.simulator.plan_command import SERVICES, text
from cli.simulator.scenario import ScenarioError, make_scenario
from cli.simulator.simulation import simulate
from services.decode.engine.backends import CostModel as DecodeCosts
from services.llm.engine.backends import CostModel as LlmCosts
from services.llm.loading import engine_limits
from tests.support.costs import GUIDED

LLM, DECODE = (str(SERVICES / service / "costs" / "hopper.json") for service in ("llm", "decode"))
NEED = Need(streams=500, voice_seconds=8.0, first_audio=0.3, llm_costs=LLM, decode_costs=DECODE)


def test_workers_follow_from_the_streams_that_one_holds() -> None:
    plan = Plan.of(NEED, per_llm=400.0, per_decode=30.0)
    assert (plan.llm_workers, plan.decode_workers) == (2, 18)
    # Without the spare worker, each of the others has its share of the streams.
    assert plan.streams_per_decode == 30
    assert plan.streams_per_llm == 250
    assert plan.price_per_audio_hour(2.5) == pytest.approx(20 * 2.5 / 500)


def test_the_values_are_those_of_the_chart() -> None:
    values = yaml.safe_load(Plan.of(NEED, 400.0, 30.0).values())
    assert values["decode"]["replicaCount"] == 18
    assert values["decode"]["settings"]["decode_max_streams"] == 30
    assert values["llm"] == {"replicaCount": 2, "settings": {"max_running": 250, "total_tokens": 116_736}}


def test_streams_of_one_voice_share_its_prompt_and_hold_half_of_their_speech() -> None:
    def seconds(streams: int, **fields: Any) -> float:
        """Of states, at 115 MB per second in the part of the memory that is for states."""
        return (replace(NEED, **fields).decode_bytes(streams) - 4e9) * 0.8 / 115e6

    # A prompt of 8 s has seven whole chunks whose lookahead is in the prompt; each stream holds the rest of it.
    many = 1200
    half, deviations = 8.0 * many / 2, 3 * 8.0 * math.sqrt(many / 12)
    assert seconds(many) == pytest.approx(7 + many + half + deviations)
    assert seconds(many, voices=10) - seconds(many) == pytest.approx(9 * 7)
    assert seconds(3, voices=10) - seconds(3) == pytest.approx(2 * 7), "no more prompts than streams"
    assert seconds(1) == pytest.approx(7 + 1 + 8), "one stream may have all of its speech"
    assert seconds(1, prompt_seconds=0.5) == pytest.approx(0.5 + 8)


def test_memory_limits_the_streams_of_a_worker() -> None:
    limited = replace(NEED, memory=80e9)
    assert limited.decode_bytes(int(limited.fitting)) <= 80e9 < limited.decode_bytes(int(limited.fitting) + 1)
    plan = Plan.of(limited, per_llm=400.0, per_decode=200.0)
    assert plan.per_decode == limited.fitting < 200
    assert plan.decode_workers == math.ceil(500 / limited.fitting) + 1
    assert plan.decode_bytes <= 80e9
    assert "limited by its memory" in text(plan, None)
    assert "limited by its memory" not in text(Plan.of(limited, 400.0, 30.0), None)
    assert replace(limited, voices=8).fitting < limited.fitting < replace(limited, memory=139e9).fitting
    with pytest.raises(ScenarioError, match="--memory 5 GB"):
        make_plan(replace(NEED, memory=5e9))


def test_a_plan_says_where_its_costs_come_from(tmp_path: Path) -> None:
    shown = text(Plan.of(NEED, 400.0, 30.0), 2.5)
    assert "0.1000 per hour of audio" in shown
    assert "ESTIMATE" not in shown
    assert "on one H100" in next(line for line in shown.splitlines() if line.startswith("  llm "))
    assert "on one H200" in next(line for line in shown.splitlines() if line.startswith("  decode "))
    guess = tmp_path / "guess.json"
    guess.write_text(json.dumps({**json.loads(Path(LLM).read_text()), "measured": "NOT measured: a guess"}))
    assert "This is an ESTIMATE" in text(Plan.of(replace(NEED, llm_costs=str(guess)), 400.0, 30.0), None)


def test_the_measured_costs_are_those_of_the_documentation() -> None:
    llm, decode = LlmCosts.read(Path(LLM)), DecodeCosts.read(Path(DECODE))
    # docs/benchmarks.md, section On a GPU: hops of one chunk (50 frames), and steps with eight per read.
    for streams, seconds in ((1, 0.0274), (4, 0.0403), (16, 0.0695)):
        assert decode.seconds(streams, streams * 50) == pytest.approx(seconds, rel=0.1)
    for sequences, seconds in ((1, 0.00107), (16, 0.00125), (64, 0.00155), (256, 0.00366)):
        assert llm.step_s + sequences * llm.step_s_per_sequence == pytest.approx(seconds, rel=0.13)


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
    load = {
        **GUIDED,
        "rate": 40.0,
        "seconds": 1.0,
        "sentence_seconds": 1.2,
        "speed": 10.0,
        "decode": {"decode_max_streams": 1},
    }
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


def test_the_kv_cache_limits_no_llm_worker_of_a_search() -> None:
    """A plan states how large the cache must be, so the search for streams must not end at its default size."""
    limits = engine_limits(make_scenario(NEED.scenario(1.0)).llm_settings)
    assert limits.total_tokens >= limits.max_running * limits.max_request_tokens


def test_only_a_missing_package_is_reported_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail_without(ModuleNotFoundError("No module named 'greenlet'", name="greenlet"))
    assert "pip install 'light-tts[simulator]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError, match="ours"):
        fail_without(ModuleNotFoundError("No module named 'ours'", name="ours"))
