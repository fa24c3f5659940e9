"""Streams share the text threads in turn, and no step of an encoder is long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from services.common.checkpoint.model_dir import open_model_dir
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.segment import MAX_SEGMENT
from services.encode.text.text_encoder import STEP_CHARACTERS, InterleavedEncoder, SentenceEncoder, TextEncoder
from services.encode.text.turns import TextThreads

FRONTEND = TextFrontend(open_model_dir(Path(__file__).parents[2] / "data" / "cosyvoice2-mini"), Normaliser("builtin"))
LONGEST = 20_000


async def test_a_short_text_waits_for_one_step_of_each_long_one() -> None:
    done: list[str] = []
    begin = threading.Event()

    def steps(name: str, count: int) -> Iterator[None]:
        begin.wait()
        for _ in range(count):
            done.append(name)
            yield

    async def encode(name: str, count: int) -> None:
        async for _ in threads.each(steps(name, count)):
            pass

    threads = TextThreads(1)
    try:
        long = [asyncio.create_task(encode(f"long {n}", 50)) for n in range(8)]
        await asyncio.sleep(0)  # each long text has queued its first step
        short = asyncio.create_task(encode("short", 1))
        await asyncio.sleep(0)
        begin.set()
        await asyncio.gather(short, *long)
    finally:
        threads.close()
    assert done.index("short") == 8
    assert len(done) == 8 * 50 + 1
    # The long texts take turns as well: each has half of its steps when the first has.
    assert {done[: 8 * 25 + 1].count(f"long {n}") for n in range(8)} == {25}


async def test_several_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=400)
    threads = TextThreads(2)
    try:
        await asyncio.gather(threads.run(both.wait), threads.run(both.wait))
    finally:
        threads.close()


async def test_an_error_in_a_step_reaches_the_stream() -> None:
    def steps() -> Iterator[int]:
        yield 1
        raise ValueError("bad text")

    threads = TextThreads(1)
    received = []
    try:
        with pytest.raises(ValueError, match="bad text"):  # noqa: PT012 - the results before the error count too
            async for result in threads.each(steps()):
                received.append(result)
    finally:
        threads.close()
    assert received == [1]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *product(
            (SentenceEncoder, InterleavedEncoder), ["word " * 4000, "a." * 10_000, "1," * 10_000, "好的。" * 6600]
        ),
        (SentenceEncoder, "1234567890" * 2000),
        (SentenceEncoder, "Hi. " * 2000),
    ],
)
def test_each_step_covers_a_bounded_part_of_the_text(kind: Callable[[TextFrontend], TextEncoder], text: str) -> None:
    steps = [*(encoder := kind(FRONTEND)).push(text), *encoder.finish()]
    assert len(steps) >= len(text) // (STEP_CHARACTERS + MAX_SEGMENT)
    for pieces in steps:
        assert not pieces or pieces[-1].end - pieces[0].start <= 3 * STEP_CHARACTERS


@pytest.mark.parametrize("text", ["[a-", "<a ", "a"])
def test_interleaved_text_is_scanned_once(text: str) -> None:
    """To scan all text that is held back once for each character takes half an hour here."""
    encoder = InterleavedEncoder(FRONTEND)
    ids: list[int] = []
    for character in (text * LONGEST)[:LONGEST]:
        ids += [id_ for pieces in encoder.push(character) for piece in pieces for id_ in piece.ids]
    ids += [id_ for pieces in encoder.finish() for piece in pieces for id_ in piece.ids]
    assert ids == FRONTEND.tokenizer.encode((text * LONGEST)[:LONGEST])
