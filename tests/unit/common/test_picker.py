"""Pickers: turns stay even while the candidates change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from services.common.pool import LeastLoaded, Picker, RoundRobin


@dataclass
class Candidate:
    address: str
    active: int = 0


@pytest.mark.parametrize("picker", [RoundRobin(), LeastLoaded()])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_candidates_take_turns(picker: Picker, count: int) -> None:
    candidates = [Candidate(f"10.0.0.{n}:1") for n in range(count)]
    picks = Counter(picker.pick(candidates).address for _ in range(5 * count))
    assert set(picks.values()) == {5}


def test_round_robin_continues_when_candidates_change() -> None:
    a, b, c, d = (Candidate(address) for address in "abcd")
    picker = RoundRobin()
    assert picker.pick([b]) is b
    assert [picker.pick([a, b, c, d]) for _ in range(3)] == [c, d, a]
    assert picker.pick([a, c, d]) is c
    assert picker.pick([a, b]) is a


def test_least_loaded_picks_the_worker_with_the_fewest_leases() -> None:
    a, b, c = Candidate("a", 2), Candidate("b", 0), Candidate("c", 1)
    picker = LeastLoaded()
    assert picker.pick([a, b, c]) is b
    b.active = 1
    assert {picker.pick([a, b, c]).address for _ in range(2)} == {"b", "c"}


def test_a_pick_reads_few_of_many_candidates() -> None:
    reads = 0

    class Counted(Candidate):
        def __getattribute__(self, name: str) -> object:
            nonlocal reads
            reads += name == "address"
            return super().__getattribute__(name)

    candidates, picker = [Counted(f"{number:04}") for number in range(1024)], RoundRobin()
    picker.pick(candidates)
    reads = 0
    picker.pick(candidates)
    assert 0 < reads <= 12
