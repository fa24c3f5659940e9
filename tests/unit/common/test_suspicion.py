"""The budget that keeps a slow pool from being made slower."""

from __future__ import annotations

import pytest

from services.common.workers.budget import MEMORY_SECONDS, FailoverBudget


@pytest.mark.parametrize(("workers", "allowed"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_at_most_half_of_the_workers_are_left_at_once(workers: int, allowed: int) -> None:
    now = [0.0]
    suspects = FailoverBudget(lambda: now[0])
    left = [suspects.suspect(f"w{number}", workers) for number in range(workers)]
    assert left == [True] * allowed + [False] * (workers - allowed)
    assert suspects.suspect("w0", workers)  # the next utterance of a worker that is suspected already
    now[0] = MEMORY_SECONDS
    assert suspects.suspect(f"w{workers}", workers)
