"""Encode workers that are lost in the middle of a text: another one gets the text, and no id is repeated or missing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import tts_pb2
from services.common.errors import Internal, Overloaded
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from tests.support.fake_encode import FakeEncode
from tests.support.fake_stages import Conversation, Rig, rig, samples, until
from tests.support.gateway_speech import config, expected
from tests.support.llm import metric

FIRST, SECOND = "One two three.", " Four five six."


async def speak(r: Rig) -> list[Any]:
    """Send the text in fragments that end within words and sentences."""
    client = await Conversation(r, config()).begin()
    for fragment in ("One t", "wo three. Fo", "ur five", " six."):
        await client.text(fragment)
        await asyncio.sleep(0)
    await client.end()
    return await client.rest()


async def refused(r: Rig) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await speak(r)
    return refusal.value


@pytest.mark.parametrize("whole_sentences", [False, True])
@pytest.mark.parametrize("runs", range(7))
async def test_another_worker_gets_the_text_of_a_lost_one(runs: int, whole_sentences: bool) -> None:
    async with rig(encodes=2, interleaved_text=True) as r:
        lossy, saved = r.encodes
        lossy.lose_text_after = runs
        saved.whole_sentences = whole_sentences  # its runs differ from those that were received
        while not lossy.texts:  # the first turn of the pool is random
            events = await speak(r)
        assert np.array_equal(samples(events), expected(FIRST, SECOND))
        assert "".join(saved.texts[-1]) == FIRST + SECOND


async def test_text_that_arrives_after_the_loss_is_encoded_too() -> None:
    async with rig(encodes=2, interleaved_text=True) as r:
        for encode in r.encodes:
            encode.lose_text_after = 1
        client = await Conversation(r, config()).begin()
        await client.text("One ")
        await until(lambda: any(encode.texts for encode in r.encodes))
        lossy, saved = sorted(r.encodes, key=lambda encode: -len(encode.texts))
        saved.lose_text_after = None
        await client.text("two ")
        await until(lambda: bool(saved.texts))
        await client.text("three." + SECOND)
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected(FIRST, SECOND))
        assert len(lossy.texts) == len(saved.texts) == 1


async def test_the_only_worker_is_used_again_after_a_restart() -> None:
    """Even if it starts longer than a new session waits for a worker."""
    async with rig(interleaved_text=True, worker_wait_seconds=0) as r:
        r.encode.lose_text_after = 2
        speaking = asyncio.create_task(speak(r))
        await until(lambda: bool(r.encode.texts) and not r.encode.open_texts)
        r.encode.lose_text_after = None
        assert np.array_equal(samples(await speaking), expected(FIRST, SECOND))


async def test_text_of_a_session_that_has_begun_waits_for_the_only_worker_to_start_again() -> None:
    """Also if none of its text had been encoded when the worker was lost."""
    async with rig(worker_wait_seconds=0) as r:
        client = await Conversation(r, config()).begin()
        await client.next_of(tts_pb2.Started)
        [server] = r.encode_servers
        await server.close()
        await until(lambda: metric("lighttts_pool_healthy", pool="encode", worker=server.address) == 0)
        await client.text(FIRST)
        await client.text(SECOND)
        await client.end()
        again = ServiceServer(FakeEncode(), ServiceSettings(host=server.settings.host, port=server.port))
        try:
            await again.start()
            assert np.array_equal(samples(await client.rest()), expected(FIRST, SECOND))
        finally:
            await again.close()


async def test_two_workers_are_tried_and_the_error_has_plain_words() -> None:
    async with rig(encodes=3) as r:
        for encode in r.encodes:
            encode.lose_text_after = 1
        error = await refused(r)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "the encode workers were lost while they read this text; try again"
        assert sum(len(encode.texts) for encode in r.encodes) == 2


async def test_an_utterance_whose_text_cannot_be_encoded_further_ends_with_the_error() -> None:
    async with rig(encodes=3, interleaved_text=True) as r:
        for encode in r.encodes:
            encode.lose_text_after = 1  # "One " is spoken already, and no worker is left for the rest of the sentence
        error = await refused(r)
        assert error.details() == "the encode workers were lost while they read this text; try again"
        await until(lambda: all(call.cancelled.is_set() for llm in r.llms for call in llm.calls))


async def test_a_lost_only_worker_is_reported_in_plain_words() -> None:
    async with rig(worker_wait_seconds=0, session_patience_seconds=0) as r:
        r.encode.lose_text_after = 1
        error = await refused(r)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "Socket closed" not in (error.details() or "")


@pytest.mark.parametrize(
    ("error", "code", "calls"),
    [(Internal("a bug"), grpc.StatusCode.INTERNAL, 2), (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, 1)],
)
async def test_an_error_of_the_workers_reaches_the_client(error: Exception, code: grpc.StatusCode, calls: int) -> None:
    async with rig(encodes=3) as r:
        for encode in r.encodes:
            encode.text_refusal = error
        assert (await refused(r)).code() is code
        assert sum(len(encode.texts) for encode in r.encodes) == calls


async def test_another_worker_releases_text_where_the_lost_one_did() -> None:
    """A sentence that was spoken in a pause is an utterance of its own, also at the next worker."""
    async with rig(encodes=2, interleaved_text=True) as r:
        lossy, saved = r.encodes
        lossy.released = 14
        lossy.lose_text_after = 2
        while not lossy.texts:  # the first turn of the pool is random
            events = await speak(r)
        assert np.array_equal(samples(events), expected(FIRST, SECOND))
        assert saved.releases[-1] == [14]
