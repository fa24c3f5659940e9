"""A soak of seconds, and the figures by which a soak is judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.soak.acts import HUNG, WHOLE
from tests.soak.harness import TENTHS, Soak, soak, soak_stack
from tests.soak.held import COUNT_SLACK, MEMORY_SLACK_MIB, Held
from tests.soak.pace import LEAST_SECONDS, OVERTAKEN, Pace

HELD = Held(pid=7, memory_mib=100.0, descriptors=50, threads=20, tasks=30, slots=0)


async def test_nothing_is_kept_after_a_short_soak(tmp_path: Path) -> None:
    told: list[str] = []
    async with soak_stack(tmp_path) as (target, doors):
        result = await soak(target, doors, seconds=1, clients=2, seed=3, kinds=["kill-decode"], tell=told.append)
    assert not result.wrong(), result.report()
    assert sum(result.faults.values()) > 0
    assert [len(memory) for memory in result.tenths.values()] == [TENTHS, TENTHS]
    assert [line.split()[0] for line in told] == [str(tenth + 1) for tenth in range(TENTHS)]
    assert "acts" in told[0]
    assert "gateway" in told[0]


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_act_that_others_overtake_again_and_again_is_stuck() -> None:
    clock = Time()
    pace = Pace(clients=2, clock=clock)
    slow = pace.begin()
    for number in range(2 * OVERTAKEN):
        other = pace.begin()
        clock.now += LEAST_SECONDS / 4
        assert not pace.stuck(slow), f"after {number} requests of others in {clock.now:.0f} s"
        pace.end(other, whole=False)  # an error shows no speed
        other = pace.begin()
        clock.now += 1
        pace.end(other, whole=True)
    assert pace.stuck(slow)


def test_acts_of_a_slow_machine_are_not_stuck_while_one_ends_now_and_then() -> None:
    clock = Time()
    pace = Pace(clients=2, clock=clock)
    runs = [pace.begin() for _ in range(5)]
    for run in runs:
        clock.now += LEAST_SECONDS - 1
        assert not any(pace.stuck(one) for one in runs)
        pace.end(run, whole=True)
    last = pace.begin()
    clock.now += 4.9 * 5 * (LEAST_SECONDS - 1)
    assert not pace.stuck(last)
    clock.now += 0.2 * 5 * (LEAST_SECONDS - 1)
    assert pace.stuck(last), "nothing ends any more"


def test_acts_are_stuck_when_no_request_ends_at_all() -> None:
    clock = Time()
    pace = Pace(clients=1, clock=clock)
    run = pace.begin()
    clock.now += LEAST_SECONDS - 1
    assert not pace.stuck(run)
    clock.now += 1
    assert pace.stuck(run)


def test_a_process_may_keep_no_more_than_pools_and_caches() -> None:
    assert replace(HELD, memory_mib=100 + MEMORY_SLACK_MIB, threads=20 + COUNT_SLACK).excess(HELD) == []
    more = replace(HELD, memory_mib=301.0, descriptors=100, threads=40, tasks=60, slots=2)
    found = ["2 slots", "201 MiB more", "50 more descriptors", "20 more threads", "30 more tasks"]
    assert more.excess(HELD) == found
    assert replace(more, pid=8).excess(HELD) == ["2 slots"]


def test_what_is_wrong_is_reported() -> None:
    good = Soak({"riva": Counter({WHOLE: 2})}, before={"llm": HELD}, after={"llm": HELD}, last_request=WHOLE)
    assert good.wrong() == []
    assert "100 -> 100" in good.report()
    grown = replace(good, tenths={"gateway": [100.0, 104.0, 103.0]})
    assert "gateway: 100 104 103 MiB by tenths, +3% after the first" in grown.report()
    assert replace(good, after={}).wrong() == ["llm is not running"]
    hung = replace(good, outcomes={"riva": Counter({HUNG: 2})})
    assert hung.wrong() == ["2 acts did not end", "no request was spoken whole"]
    assert "ended with UNAVAILABLE" in replace(good, last_request="UNAVAILABLE").report()
