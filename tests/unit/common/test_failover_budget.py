"""The budget that keeps moves from slowing down a slow pool further."""

from __future__ import annotations

import pytest

from services.common.workers.budget import MEMORY_SECONDS, PROVEN_MEMORY_SECONDS, FailoverBudget


@pytest.mark.parametrize(("workers", "allowed"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_at_most_half_of_the_workers_are_given_up_at_once(workers: int, allowed: int) -> None:
    now = [0.0]
    budget = FailoverBudget(lambda: now[0])
    given_up = [budget.may_give_up(f"w{number}", workers) for number in range(workers)]
    assert given_up == [True] * allowed + [False] * (workers - allowed)
    assert budget.may_give_up("w0", workers), "further streams may leave a worker that was given up before"
    now[0] = MEMORY_SECONDS
    assert budget.may_give_up(f"w{workers}", workers)


def test_a_worker_that_is_proven_to_be_frozen_counts_for_a_shorter_time() -> None:
    now = [0.0]
    budget = FailoverBudget(lambda: now[0])
    assert budget.may_give_up("w0", 2, proven=True)
    assert not budget.may_give_up("w1", 2, proven=True)
    now[0] = PROVEN_MEMORY_SECONDS
    assert budget.may_give_up("w1", 2)
