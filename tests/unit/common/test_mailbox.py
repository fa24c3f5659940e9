"""Mailboxes: order across threads, failures, back-pressure, and background work that ends with its block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.common.engine.event_queue import EventQueue, background


async def test_posts_from_threads_arrive_in_order() -> None:
    mailbox: EventQueue[tuple[int, int]] = EventQueue()
    threads = [
        threading.Thread(target=lambda sender=sender: [mailbox.post((sender, count)) for count in range(200)])
        for sender in range(3)
    ]
    for thread in threads:
        thread.start()
    taken = [await mailbox.take() for _ in range(600)]
    for thread in threads:
        thread.join()
    for sender in range(3):
        assert [item for item in taken if item and item[0] == sender] == [(sender, count) for count in range(200)]


async def test_a_wait_without_events_is_none() -> None:
    mailbox: EventQueue[int] = EventQueue()
    assert await mailbox.take(0.001) is None
    mailbox.post(1)
    assert await mailbox.take(5) == 1


async def test_a_failure_comes_after_what_was_posted_before() -> None:
    mailbox: EventQueue[int] = EventQueue()
    mailbox.post(1)
    mailbox.fail(ValueError("broken"))
    assert await mailbox.take() == 1
    with pytest.raises(ValueError, match="broken"):
        await mailbox.take()


async def test_a_sender_is_no_faster_than_the_reader() -> None:
    mailbox: EventQueue[int] = EventQueue()
    sent: list[int] = []

    async def flood() -> None:
        for number in range(1000):
            await mailbox.send(number)
            sent.append(number)

    async with background(flood(), mailbox):
        for number in range(5):
            assert await mailbox.take() == number
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(sent) <= number + 1
    assert len(sent) < 10


async def test_a_post_after_the_loops_end_is_dropped() -> None:
    boxes: list[EventQueue[int]] = []

    async def make() -> None:
        boxes.append(EventQueue())

    thread = threading.Thread(target=lambda: asyncio.run(make()))
    thread.start()
    await asyncio.to_thread(thread.join)
    boxes[0].post(1)


async def test_background_work_fails_into_the_mailbox() -> None:
    mailbox: EventQueue[int] = EventQueue()

    async def work() -> None:
        mailbox.post(1)
        raise ValueError("broken")

    async with background(work(), mailbox):
        assert await mailbox.take() == 1
        with pytest.raises(ValueError, match="broken"):
            await mailbox.take()


async def test_background_work_ends_with_its_block() -> None:
    mailbox: EventQueue[int] = EventQueue()
    begun, released = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            released.set()

    before = asyncio.all_tasks()
    async with background(work(), mailbox):
        await begun.wait()
    assert released.is_set()
    with pytest.raises(RuntimeError, match="the block failed"):
        async with background(work(), mailbox):
            raise RuntimeError("the block failed")
    assert asyncio.all_tasks() == before
    assert await mailbox.take(0.001) is None  # a cancel is no failure
