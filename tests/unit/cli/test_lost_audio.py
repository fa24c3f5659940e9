"""What a lost worker costs a listener: our way and those of other servers, in the simulator."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.lost_audio import POLICIES, Losses, table
from cli.simulator.scenario import make_scenario
from cli.simulator.simulation import Result, simulate
from tests.support.costs import GUIDED

WHOLE = 2.4
LOAD: dict[str, Any] = {
    **GUIDED,
    "rate": 8,
    "seconds": 1.5,
    "sentence_seconds": WHOLE,
    "decode_workers": 4,
    "llm_workers": 2,
    "llm": {"steps_per_turn": 8},
    "start_seconds": 0.1,
    "tones": True,
}
KILLS = [
    {"at": 1.2, "action": "kill"},
    {"at": 1.2, "action": "add"},
    {"at": 1.8, "action": "kill", "service": "llm"},
]


def result_of(on_loss: str, changes: list[dict[str, Any]]) -> Result:
    return simulate(make_scenario({**LOAD, "on_loss": on_loss, "changes": changes}))


@pytest.fixture(scope="module")
def killed() -> dict[str, Result]:
    return {on_loss: result_of(on_loss, KILLS) for on_loss in POLICIES.values()}


@pytest.fixture(scope="module")
def calm() -> Result:
    return result_of("resume", [])


def losses(found: Result) -> Losses:
    return Losses.of(found, 2, WHOLE)


def test_ours_loses_and_repeats_nothing(killed: dict[str, Result], calm: Result) -> None:
    ours = losses(killed["resume"])
    assert killed["resume"].moves > 0
    assert ours.lost == pytest.approx(0.0)
    assert (ours.repeated, ours.cut) == (0.0, 0.0)
    assert [one.audio for one in killed["resume"].sessions] == [one.audio for one in calm.sessions]


def test_a_server_without_failover_loses_the_rest_of_each_utterance_on_the_worker(killed: dict[str, Result]) -> None:
    found, ended = losses(killed["end"]), [one for one in killed["end"].sessions if one.outcome.error is not None]
    assert ended
    assert found.cut == pytest.approx(500 * len(ended))
    assert found.lost == pytest.approx(500 * sum(WHOLE - one.outcome.audio_seconds for one in ended))
    assert 0 < found.lost <= 500 * WHOLE * len(ended)
    assert (found.repeated, killed["end"].moves) == (0.0, 0)


def test_a_restarted_utterance_is_heard_from_its_beginning_again(killed: dict[str, Result]) -> None:
    found = losses(killed["repeat"])
    assert found.lost == pytest.approx(0.0, abs=1e-6)
    assert found.cut == 0.0
    assert found.repeated > 0.0
    for one in killed["repeat"].sessions:
        assert one.outcome.audio_seconds == pytest.approx(WHOLE + one.repeated)
        assert bool(one.repeated) <= bool(one.moves)


def test_a_gateway_that_drops_what_it_has_sent_repeats_nothing_and_is_later(
    killed: dict[str, Result], calm: Result
) -> None:
    found = losses(killed["skip"])
    assert found.lost == pytest.approx(0.0, abs=1e-6)
    assert (found.repeated, found.cut) == (0.0, 0.0)
    assert found.gap > losses(calm).gap
    assert [one.audio for one in killed["skip"].sessions] == [one.audio for one in calm.sessions]


def test_other_servers_wait_for_a_frozen_worker_and_end_no_stream_in_a_drain() -> None:
    frozen = result_of("end", [{"at": 1.0, "action": "freeze", "seconds": 1.5}])
    assert losses(frozen).gap > 0.0
    drained = result_of("repeat", [{"at": 1.0, "action": "drain", "count": 2}])
    for found in (frozen, drained):
        assert losses(found).lost == pytest.approx(0.0, abs=1e-6)
        assert (found.moves, found.report.failed, losses(found).repeated) == (0, 0, 0.0)


def test_ours_leaves_draining_workers_and_loses_nothing(calm: Result) -> None:
    drained = result_of("resume", [{"at": 1.0, "action": "drain", "count": 2}])
    assert drained.moves > 0
    assert [one.audio for one in drained.sessions] == [one.audio for one in calm.sessions]


def test_the_table_has_a_row_per_load() -> None:
    one = Losses(lost=1234.4, repeated=0.0, gap=5.6, cut=7.0, refused=0.0)
    shown = table({"0.5": dict.fromkeys(POLICIES, one)}).splitlines()
    assert len(shown) == 3
    assert shown[2].startswith("| 0.5 | 1,234 / 0 / 6, 7 cut |")
