"""The session's parts: queues, admission, task groups, seeds, lines of warnings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import tasks
from gateway.api.common import warnings
from gateway.auth.admission import Admission
from gateway.closable_queue import ClosableQueue
from gateway.session.options import speakable
from gateway.session.text_queue import End, Flush, TextQueue
from gateway.session.turn import utterance_seed
from lighttts.v1 import tts_pb2
from services.common.errors import LightTtsError, Overloaded, Unavailable


async def collect(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]


async def test_a_full_queue_blocks_its_sender() -> None:
    queue: ClosableQueue[int] = ClosableQueue(2)
    await queue.send(0)
    await queue.send(1)
    third = asyncio.create_task(queue.send(2))
    await asyncio.sleep(0)
    assert not third.done()
    assert await anext(queue) == 0
    await third
    queue.close()
    assert await collect(queue) == [1, 2]
    assert await collect(queue) == []
    assert queue.taken == 3


async def test_a_cancelled_send_adds_nothing() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send(0)
    waiting = asyncio.create_task(queue.send(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert await anext(queue) == 0
    await queue.send(2)
    queue.close()
    assert await collect(queue) == [2]


async def test_senders_add_in_the_order_in_which_they_came() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send(0)
    senders = [asyncio.create_task(queue.send(item)) for item in (1, 2, 3)]
    await asyncio.sleep(0)
    assert await anext(queue) == 0
    late = asyncio.create_task(queue.send(4))
    assert [await anext(queue) for _ in range(4)] == [1, 2, 3, 4]
    await asyncio.gather(*senders, late)


async def test_a_sender_that_comes_while_another_is_admitted_waits() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send(0)
    first = asyncio.create_task(queue.send(1))
    await asyncio.sleep(0)
    late = asyncio.create_task(queue.send(2))  # it begins before the first one continues
    assert await anext(queue) == 0
    assert [await anext(queue) for _ in range(2)] == [1, 2]
    await asyncio.gather(first, late)


async def test_dropped_items_leave_their_room() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send(0)
    waiting = asyncio.create_task(queue.send(1))
    await asyncio.sleep(0)
    queue.drop_waiting()
    assert await anext(queue) == 1
    await waiting


async def test_a_closed_queue_keeps_its_first_end_and_takes_nothing_more() -> None:
    queue: ClosableQueue[int] = ClosableQueue(2)
    queue.close(Unavailable("gone"))
    queue.close()
    await queue.send(1)
    with pytest.raises(Unavailable):
        await anext(queue)


async def test_a_cancelled_sender_leaves_its_room_to_the_next_one() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send(0)
    first, second = (asyncio.create_task(queue.send(item)) for item in (1, 2))
    await asyncio.sleep(0)
    assert await anext(queue) == 0  # there is room for the first sender, which is cancelled before it continues
    first.cancel()
    await asyncio.wait({first, second})
    assert first.cancelled()
    assert await anext(queue) == 2


async def test_an_item_that_is_not_made_leaves_its_room() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send_made(lambda: None)
    with pytest.raises(ZeroDivisionError):
        await queue.send_made(lambda: 1 // 0)
    await queue.send(1)
    waiting = [asyncio.create_task(queue.send_made(lambda: None)), asyncio.create_task(queue.send(2))]
    await asyncio.sleep(0)
    assert [await anext(queue) for _ in range(2)] == [1, 2]
    await asyncio.wait(waiting)


async def test_an_error_follows_the_items_before_it() -> None:
    queue: ClosableQueue[int] = ClosableQueue(1)
    await queue.send(0)
    queue.close(Unavailable("gone"))
    assert await anext(queue) == 0
    for _ in range(2):
        with pytest.raises(Unavailable):
            await anext(queue)


async def test_the_text_queue_joins_text_up_to_each_boundary() -> None:
    queue = TextQueue()
    for item in ("a", "b", Flush(0), "c", Flush(1), Flush(2), "d", End()):
        queue.put(item)
    assert [await queue.take() for _ in range(7)] == ["ab", Flush(0), "c", Flush(1), Flush(2), "d", End()]


async def test_the_text_queue_waits_for_text() -> None:
    queue = TextQueue()
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not taking.done()
    queue.put("a")
    assert await taking == "a"


class Running:
    def __init__(self) -> None:
        self.aborted = asyncio.Event()

    def retire(self) -> None:
        """Keeps running: a client need not reconnect."""

    def abort(self, error: LightTtsError) -> None:
        self.aborted.set()


async def test_admission_is_bounded_and_frees_places() -> None:
    admission = Admission(1)
    with admission.admit(Running()), pytest.raises(Overloaded), admission.admit(Running()):
        pass
    with admission.admit(Running()):
        pass


async def test_draining_admits_no_session_and_aborts_the_rest() -> None:
    admission, running = Admission(2), Running()
    with admission.admit(running):
        admission.retire(0)
        draining = asyncio.create_task(admission.drain())
        await running.aborted.wait()
        assert not draining.done()
        with pytest.raises(Unavailable), admission.admit(Running()):
            pass
    await draining


async def test_a_group_raises_its_first_error_as_it_is() -> None:
    async def fail() -> None:
        raise Unavailable("gone")

    async def nested() -> None:
        async with tasks.group() as outer:
            outer.create_task(asyncio.Event().wait())
            async with tasks.group() as inner:
                inner.create_task(fail())
                await asyncio.Event().wait()

    with pytest.raises(Unavailable):
        await nested()


@given(st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(0, 100))
def test_every_utterance_has_its_own_seed(seed: int, turn: int, utterance: int) -> None:
    own = utterance_seed(seed, turn, utterance)
    assert own == utterance_seed(seed, turn, utterance)
    assert 0 <= own < 2**64
    assert own not in (utterance_seed(seed, turn, utterance + 1), utterance_seed(seed, turn + 1, utterance))


@pytest.mark.parametrize(
    ("text", "has_speech"),
    [
        ("", False),
        (" \n", False),
        ("...!?", False),
        ("。！", False),
        ("🙂", False),
        ("a", True),
        ("你", True),
        ("7", True),
    ],
)
def test_what_can_be_spoken(text: str, has_speech: bool) -> None:
    assert speakable(text) is has_speech


def test_the_line_of_a_warning_is_printable_ascii_and_ends_without_a_space() -> None:
    notes = [tts_pb2.Warning(code="noted", message=message) for message in ("a\x00\né", "x" * 292 + " " + "y" * 9)]
    first, second = warnings.lines(notes)
    assert first == "noted: a\\x00 \\xe9"
    assert second == "noted: " + "x" * 292, "HTTP has no header that ends with a space"
