"""Tokens wake the task of their utterance when it can use them: not one by one, and none is left behind."""

from __future__ import annotations

import queue
import threading

import pytest

from services.common.engine.shell import EngineClosed, FailedEvent
from services.llm.alignment.monotonic import Aligned
from services.llm.engine.sequence import TokensEvent
from services.llm.stream.token_inbox import TokenInbox, TokensReady


def token(number: int, *, last: bool = False) -> TokensEvent:
    return TokensEvent((number,), (number,), last, "stop" if last else None)


def taken_ids(inbox: TokenInbox) -> tuple[int, ...]:
    taken = inbox.take()
    assert taken is not None
    return taken.ids


def test_only_the_first_tokens_a_complete_hop_and_the_last_tokens_wake() -> None:
    posts: list[TokensReady | FailedEvent] = []
    inbox = TokenInbox(posts.append)
    woken: list[int] = []
    for number in range(60):
        inbox.receive(token(number, last=number == 59))
        if posts:
            posts.clear()
            taken = taken_ids(inbox)
            woken.append(taken[-1])
            inbox.wake_after(24)
    assert woken == [0, 24, 48, 59]
    assert inbox.take() is None


def test_tokens_that_came_before_the_wish_wake_at_once() -> None:
    posts: list[TokensReady | FailedEvent] = []
    inbox = TokenInbox(posts.append)
    inbox.receive(token(0))
    inbox.take()
    inbox.wake_after(10)
    for number in range(1, 8):
        inbox.receive(token(number))
    posts.clear()
    inbox.wake_after(5)
    assert posts == [TokensReady()]
    assert taken_ids(inbox) == tuple(range(1, 8))


def test_tokens_without_speech_do_not_count() -> None:
    posts: list[TokensReady | FailedEvent] = []
    inbox = TokenInbox(posts.append)
    inbox.receive(token(0))
    inbox.take()
    inbox.wake_after(1)
    posts.clear()
    inbox.receive(TokensEvent((), (7,)))
    assert not posts
    inbox.receive(token(1))
    assert posts == [TokensReady()]
    taken = inbox.take()
    assert taken is not None
    assert (taken.ids, taken.raw_ids) == ((1,), (7, 1))


def test_taken_tokens_end_as_the_last_event_did() -> None:
    inbox = TokenInbox(lambda event: None)
    places = (Aligned(3, 0.5), Aligned(4, 0.9))
    inbox.receive(TokensEvent((5,), (5,), aligned=places[:1], text_position=3))
    inbox.receive(TokensEvent((6,), (6, 9), True, "length", places[1:], 4))
    assert inbox.take() == TokensEvent((5, 6), (5, 6, 9), True, "length", places, 4)


def test_a_failure_wakes() -> None:
    posts: list[TokensReady | FailedEvent] = []
    inbox = TokenInbox(posts.append)
    failure = FailedEvent(EngineClosed("closed"))
    inbox.receive(failure)
    assert posts == [failure]


@pytest.mark.parametrize("hop", [1, 7])
def test_no_wake_is_lost_between_the_threads(hop: int) -> None:
    total = 2000
    woken: queue.SimpleQueue[TokensReady | FailedEvent] = queue.SimpleQueue()
    inbox = TokenInbox(woken.put)

    def generate() -> None:
        for number in range(total):
            inbox.receive(token(number, last=number == total - 1))

    engine = threading.Thread(target=generate)
    engine.start()
    taken: list[int] = []
    while len(taken) < total:
        woken.get(timeout=60)
        found = inbox.take()
        taken += () if found is None else found.ids
        inbox.wake_after(hop)
    engine.join()
    assert taken == list(range(total))
