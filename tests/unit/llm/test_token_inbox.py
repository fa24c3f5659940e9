"""Tokens wake the task of their utterance when it can use them: not one by one, and none is left behind."""

from __future__ import annotations

import queue
import threading

import pytest

from services.common.engine.shell import EngineClosed, FailedEvent
from services.llm.engine.sequence import TokensEvent
from services.llm.stream.token_inbox import TokenInbox, TokensReady


def token(number: int, *, last: bool = False) -> TokensEvent:
    return TokensEvent((number,), (number,), last, "stop" if last else None)


def test_only_the_first_tokens_a_complete_hop_and_the_last_tokens_wake() -> None:
    posts: list[TokensReady | FailedEvent] = []
    inbox = TokenInbox(posts.append)
    woken: list[int] = []
    for number in range(60):
        inbox.receive(token(number, last=number == 59))
        if posts:
            posts.clear()
            taken = [event.ids[0] for event in inbox.take()]
            woken.append(taken[-1])
            inbox.wake_after(24)
    assert woken == [0, 24, 48, 59]
    assert not inbox.take()


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
    assert len(inbox.take()) == 7


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
    assert [event.raw_ids for event in inbox.take()] == [(7,), (1,)]


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
        taken += [event.ids[0] for event in inbox.take()]
        inbox.wake_after(hop)
    engine.join()
    assert taken == list(range(total))
