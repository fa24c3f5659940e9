"""Event queues: order across threads, failures, back-pressure, and background work that ends with its block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.common.engine.event_queue import EventQueue, background


async def test_posts_from_threads_arrive_in_order() -> None:
    event_queue: EventQueue[tuple[int, int]] = EventQueue()

    def post_all(sender: int) -> None:
        for count in range(200):
            event_queue.post((sender, count))

    threads = [threading.Thread(target=post_all, args=(sender,)) for sender in range(3)]
    for thread in threads:
        thread.start()
    taken = [await event_queue.take() for _ in range(600)]
    for thread in threads:
        thread.join()
    for sender in range(3):
        assert [item for item in taken if item and item[0] == sender] == [(sender, count) for count in range(200)]


async def test_a_wait_without_events_is_none() -> None:
    event_queue: EventQueue[int] = EventQueue()
    assert await event_queue.take(0.001) is None
    event_queue.post(1)
    assert await event_queue.take(5) == 1


async def test_a_failure_comes_after_what_was_posted_before() -> None:
    event_queue: EventQueue[int] = EventQueue()
    event_queue.post(1)
    event_queue.fail(ValueError("broken"))
    assert await event_queue.take() == 1
    with pytest.raises(ValueError, match="broken"):
        await event_queue.take()


async def test_a_sender_waits_for_the_reader() -> None:
    event_queue: EventQueue[int] = EventQueue()
    sent: list[int] = []

    async def flood() -> None:
        for number in range(1000):
            await event_queue.send(number)
            sent.append(number)

    async with background(flood(), event_queue):
        for number in range(5):
            assert await event_queue.take() == number
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


async def test_a_failure_of_background_work_reaches_the_reader() -> None:
    event_queue: EventQueue[int] = EventQueue()

    async def work() -> None:
        event_queue.post(1)
        raise ValueError("broken")

    async with background(work(), event_queue):
        assert await event_queue.take() == 1
        with pytest.raises(ValueError, match="broken"):
            await event_queue.take()


async def test_background_work_ends_with_its_block() -> None:
    event_queue: EventQueue[int] = EventQueue()
    begun, released = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            released.set()

    before = asyncio.all_tasks()
    async with background(work(), event_queue):
        await begun.wait()
    assert released.is_set()
    with pytest.raises(RuntimeError, match="the block failed"):
        async with background(work(), event_queue):
            raise RuntimeError("the block failed")
    assert asyncio.all_tasks() == before
    assert await event_queue.take(0.001) is None  # a cancellation is not a failure


async def test_a_reader_that_is_cancelled_takes_no_event() -> None:
    event_queue: EventQueue[int] = EventQueue()
    reader = asyncio.create_task(event_queue.take())
    await asyncio.sleep(0)
    reader.cancel()
    event_queue.post(1)
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await event_queue.take() == 1
