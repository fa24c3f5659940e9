"""The simulator: the services under virtual time, and what holds of the scheduler at any load."""

from __future__ import annotations

import asyncio
import cProfile
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from cli.app import app
from cli.simulator.network import Call
from cli.simulator.scenario import ScenarioError, make_scenario, read_scenario
from cli.simulator.simulation import Result, simulate
from cli.simulator.virtual_time import NEVER, EngineTime, StandstillError, VirtualLoop, run
from services.common.errors import Overloaded, from_rpc_error
from tests.support.costs import GUIDED

LOAD: dict[str, Any] = {
    **GUIDED,
    "speed": 10.0,
    "seconds": 0.6,
    "sentence_seconds": 2.4,
    "decode_workers": 2,
    "llm": {"steps_per_turn": 8},
}
"""A small load on two decode workers, about 8 sentences per second at most."""


def result_of(**fields: Any) -> Result:
    return simulate(make_scenario({**LOAD, **fields}))


def test_time_jumps_to_the_next_timer() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(3600)
        return loop.time()

    assert run(main) == 3600


def test_a_simulation_in_which_nothing_can_happen_any_more_ends_with_an_error() -> None:
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(StandstillError):
        run(main)


def test_an_engine_takes_commands_after_the_batch_that_runs() -> None:
    seen: list[tuple[str, float]] = []

    async def main(loop: VirtualLoop) -> None:
        time = EngineTime(loop)
        work = ["first", "second"]

        def turn() -> bool:
            if not work:
                return False
            time.sleep(1.0)
            seen.append((work.pop(0), loop.time()))
            return True

        thread = time.thread("engine", turn, lambda: seen.append(("end", loop.time())), 0.1)
        thread.start()
        thread.post(lambda: seen.append(("command", loop.time())))
        await asyncio.sleep(0.5)
        thread.post(lambda: seen.append(("late command", loop.time())))
        await asyncio.sleep(2.0)
        thread.close()

    run(main)
    assert seen == [("command", 0.0), ("first", 1.0), ("late command", 1.0), ("second", 2.0), ("end", 2.5)]


def test_an_engine_that_is_closed_within_a_batch_ends_at_once() -> None:
    ends: list[float] = []

    async def main(loop: VirtualLoop) -> None:
        time = EngineTime(loop)

        def turn() -> bool:
            time.sleep(10.0)
            return True

        thread = time.thread("engine", turn, lambda: ends.append(loop.time()), 0.1)
        thread.post(lambda: None)
        await asyncio.sleep(1.0)
        thread.close()
        thread.close()
        assert not thread.alive

    run(main)
    assert ends == [1.0]


def test_calls_keep_the_order_of_messages_and_carry_errors() -> None:
    async def answer(requests: AsyncIterator[int]) -> AsyncIterator[int]:
        async for request in requests:
            yield 2 * request
            if request == 3:
                raise Overloaded("full", stage="decode")

    async def main(loop: VirtualLoop) -> tuple[list[int], float, str]:
        call = Call(answer, 0.25, lambda call: None)  # type: ignore[arg-type]
        for number in (1, 2, 3):
            await call.write(number)
        received: list[int] = []
        try:
            async for response in call:
                received.append(response)
        except grpc.aio.AioRpcError as error:
            sent = from_rpc_error(error)
            assert isinstance(sent, Overloaded)
            return received, loop.time(), sent.stage
        raise AssertionError("no error arrived")

    assert run(main) == ([2, 4, 6], 0.5, "decode")


def test_sessions_speak_and_the_same_seed_gives_the_same_result() -> None:
    first, again = (result_of(rate=8, sentences=2) for _ in range(2))
    assert first.report.asked > 1
    assert first.report.refused == first.report.failed == 0
    assert all(session.samples == [57_600] * 2 for session in first.sessions)
    assert first.report == again.report
    assert result_of(rate=8, sentences=2, seed=1).report != first.report


def test_computing_the_samples_changes_no_time() -> None:
    load = {"rate": 20, "sentences": 2, "changes": [{"at": 0.3, "action": "kill"}]}
    counted, computed = result_of(**load), result_of(**load, tones=True)
    assert counted.moves > 0
    assert counted.report == computed.report
    assert [one.samples for one in counted.sessions] == [one.samples for one in computed.sessions]


def test_a_timer_beyond_the_end_of_every_simulation_never_fires() -> None:
    async def main(loop: VirtualLoop) -> float:
        late = loop.call_later(NEVER, lambda: None)
        async with asyncio.timeout(NEVER):
            await asyncio.sleep(5.0)
        late.cancel()
        return loop.time()

    assert run(main) == 5.0

    async def waits(loop: VirtualLoop) -> None:
        async with asyncio.timeout(NEVER):
            await loop.create_future()

    with pytest.raises(StandstillError):
        run(waits)


def test_a_simulation_leaves_no_series_of_its_pools_in_the_process() -> None:
    result_of(rate=10, llm_workers=2, changes=[{"at": 0.2, "action": "kill", "service": "llm"}])
    pools = {sample.labels["pool"] for one in REGISTRY.collect() for sample in one.samples if "pool" in sample.labels}
    assert not [name for name in pools if name.startswith(("decode of llm-", "llm of gateway-"))]


def test_work_per_session_does_not_grow_with_workers_and_sessions() -> None:
    def calls(size: int) -> float:
        """Function calls per further session, so without the start of the workers."""
        fleet = {"llm_workers": size, "decode_workers": 2 * size, "gateways": size, "sentence_seconds": 1.2}
        total, sessions = [0, 0], [0, 0]
        for run_number, seconds in enumerate((0.4, 0.8)):
            scenario = make_scenario({**LOAD, **fleet, "rate": 12 * size, "seconds": seconds})
            with cProfile.Profile() as profile:
                sessions[run_number] = len(simulate(scenario).sessions)
            total[run_number] = sum(entry.callcount for entry in profile.getstats())
        return (total[1] - total[0]) / (sessions[1] - sessions[0])

    assert calls(8) < 1.25 * calls(2)


def test_the_garbage_collector_does_not_examine_all_sessions_again_and_again() -> None:
    collected: list[int] = []

    def collects(phase: str, info: dict[str, int]) -> None:
        collected.extend([info["generation"]] if phase == "start" else [])

    thresholds = gc.get_threshold()
    gc.callbacks.append(collects)
    try:
        assert result_of(rate=20).report.asked > 4
    finally:
        gc.callbacks.remove(collects)
    assert len(collected) <= 2
    assert gc.get_threshold() == thresholds


def test_a_full_stage_refuses_and_is_named() -> None:
    full = result_of(rate=40, decode={"decode_max_streams": 1, "decode_max_queue": 1, "decode_admission": "off"})
    assert full.refusals["decode"] == full.report.refused > 0
    assert full.report.failed == full.cut == 0


def test_more_network_delay_means_later_first_audio() -> None:
    near, far = (result_of(rate=2, seconds=1.0, network_seconds=delay).report for delay in (0.0, 0.05))
    # Two messages to the decode worker, and three back to the listener.
    assert far.first_audio.p50 - near.first_audio.p50 == pytest.approx(5 * 0.05)


def test_killed_workers_lose_no_sample_and_repeat_none() -> None:
    calm = result_of(rate=10, tones=True)
    changes = [
        {"at": 0.1, "action": "kill"},
        {"at": 0.2, "action": "add", "count": 2},
        {"at": 0.35, "action": "kill", "service": "llm"},
        {"at": 0.5, "action": "drain", "count": 2},
    ]
    hit = result_of(rate=10, tones=True, changes=changes, start_seconds=0.1, llm_workers=2, decode_workers=3)
    assert hit.moves > 0
    assert hit.report.refused == hit.report.failed == 0
    assert [session.audio for session in hit.sessions] == [session.audio for session in calm.sessions]


def test_sessions_leave_a_frozen_worker_and_one_that_goes_on_serves_again() -> None:
    load = {"speed": 3.0, "rate": 6, "seconds": 1.5, "decode_workers": 3}
    calm, lost = result_of(**load, tones=True), result_of(**load, changes=[{"at": 0.8, "action": "kill"}])
    hit = result_of(**load, tones=True, changes=[{"at": 0.8, "action": "freeze", "seconds": 0.5}])
    assert hit.moves > 0
    assert hit.cut == hit.report.refused == hit.report.failed == 0
    assert [session.audio for session in hit.sessions] == [session.audio for session in calm.sessions]
    # Others answer health checks, so it is given up after 0.3 s; a killed one is lost at once.
    assert 0.3 < hit.report.first_audio.p99 - lost.report.first_audio.p99 < 0.6
    assert hit.decode_busy < lost.decode_busy, "the worker takes its part of the load after it"


def test_frozen_llm_workers_are_left_and_a_service_that_is_frozen_as_a_whole_is_waited_for() -> None:
    load = {"rate": 10, "seconds": 2.5, "llm_workers": 3, "decode_workers": 3}
    hit = result_of(**load, changes=[{"at": 0.5, "action": "freeze", "service": "llm", "seconds": 5.0}])
    assert hit.moves > 0
    whole = result_of(**load, changes=[{"at": 0.5, "action": "freeze", "count": 3, "seconds": 1.0}])
    assert whole.moves == 0, "no other worker answers either, so none is given up"
    for one in (hit, whole):
        assert one.cut == one.report.failed == one.report.refused == 0
        assert all(session.samples == [57_600] for session in one.sessions)
    assert whole.report.first_audio.p99 > 1.0


def test_streams_that_begin_together_do_not_run_dry_after_their_first_hops(tmp_path: Path) -> None:
    """Their first hops have 0.38 s of audio, and twelve hops of the embedded voice take 0.6 s on a CPU."""
    trace = tmp_path / "burst.txt"
    trace.write_text("".join(f"{0.003 * number}\n" for number in range(12)))
    decode = {"decode_max_batch_size": 4, "decode_admission": "off"}
    load = {"decode_workers": 1, "sentence_seconds": 4.0, "prompt_seconds": 3.32, "decode": decode}
    report = simulate(make_scenario({**load, "trace": str(trace)})).report
    assert (report.refused, report.failed, report.streams_with_underrun) == (0, 0, 0)


def test_a_frozen_worker_that_is_killed_ends() -> None:
    changes = [{"at": 0.2, "action": "freeze", "count": 2, "seconds": 50.0}, {"at": 0.4, "action": "kill", "count": 2}]
    changes.append({"at": 0.5, "action": "add", "count": 2})
    hit = result_of(rate=10, changes=changes, start_seconds=0.1)
    assert hit.cut == hit.report.failed == hit.report.refused == 0
    assert hit.seconds < 20.0


@settings(max_examples=4)
@given(
    rate=st.sampled_from([2.0, 10.0, 40.0, 80.0]),
    sentences=st.integers(1, 3),
    kill_at=st.none() | st.floats(0.05, 0.8),
    seed=st.integers(0, 1000),
)
def test_every_session_ends_and_none_is_cut_at_any_load(
    rate: float, sentences: int, kill_at: float | None, seed: int
) -> None:
    """A session is refused at its start or speaks every sample: no load and no kill starves or cuts one."""
    changes = [] if kill_at is None else [{"at": kill_at, "action": "kill"}]
    found = result_of(rate=rate, seconds=0.25, sentence_seconds=1.2, sentences=sentences, changes=changes, seed=seed)
    assert found.cut == found.report.failed == 0
    whole = [session for session in found.sessions if session.outcome.error is None]
    assert len(whole) + found.report.refused == len(found.sessions)
    assert all(session.samples == [28_800] * sentences for session in whole)


def test_the_command_prints_a_line_per_load(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("{speed: 10, seconds: 0.5, sentence_seconds: 1.2, seed: 3}")
    shown = CliRunner().invoke(app, ["simulate", str(path), "--rates", "4,8"])
    assert shown.exit_code == 0, shown.output
    firsts = [text.split()[0] for text in shown.output.splitlines()]
    assert [first for first in firsts if first.endswith("/s")] == ["4/s", "8/s"]
    path.write_text("rate: 0")
    assert "rate: Input should be greater than 0" in CliRunner().invoke(app, ["simulate", str(path)]).output


def test_a_scenario_file_is_read_and_errors_name_the_field(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("decode_workers: 3\nchanges:\n  - {at: 1, action: kill}\n")
    scenario = read_scenario(path, rate=2.5)
    assert (scenario.decode_workers, scenario.rate, scenario.changes[0].action) == (3, 2.5, "kill")
    path.write_text("decode_wrokers: 3\n")
    with pytest.raises(ScenarioError, match="decode_wrokers"):
        read_scenario(path)
    path.write_text("- 3\n")
    with pytest.raises(ScenarioError, match="mapping of fields"):
        read_scenario(path)
    with pytest.raises(ScenarioError, match=r"changes\.0\.action"):
        make_scenario({"changes": [{"at": 1, "action": "vanish"}]})
    with pytest.raises(ScenarioError, match="cost file"):
        make_scenario({"llm_cost_file": tmp_path / "absent.json"})


@pytest.mark.parametrize("field", ["rate", "seconds", "sentence_seconds", "network_seconds"])
def test_an_endless_load_is_refused(field: str) -> None:
    """Its sessions would fill the memory."""
    with pytest.raises(ScenarioError, match=f"{field}: Input should be a finite number"):
        make_scenario({field: float("inf")})


def test_a_scenario_with_a_number_as_a_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("1: x\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="must be a mapping of fields"):
        read_scenario(tmp_path / "scenario.yaml")
