"""Equal work runs once, for exactly as long as a caller waits for it."""

from __future__ import annotations

import asyncio

import pytest

from services.common.single_flight import SingleFlight


class Work:
    """A job that ends when `go` is set, and counts its runs."""

    def __init__(self, result: int | Exception = 7) -> None:
        self.result = result
        self.go, self.begun = asyncio.Event(), asyncio.Event()
        self.runs = self.cancelled = 0

    async def __call__(self) -> int:
        self.runs += 1
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def test_equal_keys_share_a_job_and_others_do_not() -> None:
    jobs: SingleFlight[str, int] = SingleFlight()
    one, other = Work(1), Work(2)
    callers = [asyncio.create_task(jobs.run("one", one)) for _ in range(5)]
    callers.append(asyncio.create_task(jobs.run("other", other)))
    await other.begun.wait()
    assert len(jobs) == 2
    one.go.set()
    other.go.set()
    assert await asyncio.gather(*callers) == [1] * 5 + [2]
    assert (one.runs, other.runs) == (1, 1)
    assert len(jobs) == 0
    assert await jobs.run("one", one) == 1
    assert one.runs == 2  # no result is kept


async def test_a_failure_reaches_every_caller_and_is_not_kept() -> None:
    jobs: SingleFlight[str, int] = SingleFlight()
    work = Work(ValueError("broken"))
    callers = [asyncio.create_task(jobs.run("key", work)) for _ in range(3)]
    await work.begun.wait()
    work.go.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(result) for result in results] == ["broken"] * 3
    work.result = 5
    assert await jobs.run("key", work) == 5
    assert len(jobs) == 0


@pytest.mark.parametrize("leaving", [0, 1])
async def test_a_caller_that_leaves_does_not_end_the_job_of_others(leaving: int) -> None:
    jobs: SingleFlight[str, int] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(jobs.run("key", work)) for _ in range(2)]
    await work.begun.wait()
    callers[leaving].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[leaving]
    work.go.set()
    assert await callers[1 - leaving] == 7
    assert (work.runs, work.cancelled, len(jobs)) == (1, 0, 0)


async def test_the_last_caller_to_leave_ends_the_job() -> None:
    before = asyncio.all_tasks()
    jobs: SingleFlight[str, int] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(jobs.run("key", work)) for _ in range(3)]
    await work.begun.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert len(jobs) == 0
    assert work.cancelled == 1, "the last caller waits until the job has ended"
    again = Work(9)
    again.go.set()
    assert await jobs.run("key", again) == 9  # a new caller gets a job of its own
    assert asyncio.all_tasks() == before
