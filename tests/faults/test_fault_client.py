"""The parts of `python -m tests.faults.client` that decide whether a stream was damaged."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from cli.local.ports import HOST
from tests.faults.comparison import compare, damaged, table
from tests.faults.conversation import TIMED_OUT, Chunk, Recording
from tests.faults.proxy import Proxy

UNDISTURBED = np.arange(1000, dtype=np.int32)


def recording(*parts: tuple[int, int], code: str = "OK", shift: int = 0) -> Recording:
    """Return a recording of chunks with the samples [start, end) of UNDISTURBED."""
    chunks = [
        Chunk(float(number), number, start, (UNDISTURBED[start:end] + shift).astype("<i2").tobytes())
        for number, (start, end) in enumerate(parts)
    ]
    return Recording(chunks=chunks, code=code)


def row(received: Recording) -> dict[str, Any]:
    return {"kind": "kill-llm", **vars(compare(received, UNDISTURBED, tolerance=1e-4))}


def test_whole_audio_is_not_damaged() -> None:
    assert not damaged(row(recording((0, 600), (600, 1000))))


def test_an_error_that_ends_a_stream_early_is_not_damage() -> None:
    ended = row(recording((0, 600), code="UNAVAILABLE"))
    assert not damaged(ended)
    assert "1 x UNAVAILABLE" in table([ended])


@pytest.mark.parametrize(
    ("received", "name", "count"),
    [
        (recording((0, 600), (700, 1000)), "lost", 200),  # by position, and by length
        (recording((0, 600)), "lost", 400),
        (recording((0, 600), (500, 1000)), "repeated", 200),
        (recording((0, 1000), shift=4), "wrong", 1000),
    ],
)
def test_damage_is_counted(received: Recording, name: str, count: int) -> None:
    counted = row(received)
    assert counted[name] == count
    assert damaged(counted)


def test_the_table_has_the_median_gap_of_the_streams_that_moved() -> None:
    gaps = [(0.1, 0), (0.4, 1), (0.6, 1), (2.0, 1)]
    rows = [row(recording((0, 600), (600, 1000))) | {"gap": gap, "resumed": moves} for gap, moves in gaps]
    header, line, *_ = table(rows).splitlines()
    assert "moved gap" in header
    assert line.split()[1:3] == ["4", "3"]
    assert "0.60" in line.split()


def test_chunks_out_of_order_are_damage() -> None:
    received = recording((0, 600), (600, 1000))
    received.chunks[1] = Chunk(1.0, 2, 600, received.chunks[1].pcm)
    assert damaged(row(received))


def test_a_stream_that_does_not_end_and_a_later_failure_are_damage() -> None:
    assert damaged(row(recording((0, 600), code=TIMED_OUT)))
    assert damaged({"kind": "kill-llm", "next": "UNAVAILABLE", "details": ""})


def test_a_player_is_silent_only_after_its_buffer_is_empty() -> None:
    second = np.zeros(24000, "<i2").tobytes()
    received = Recording(chunks=[Chunk(0.0, 0, 0, second), Chunk(2.0, 1, 24000, second)])
    assert received.longest_gap() == 2.0
    assert received.longest_silence() == pytest.approx(0.75)


async def test_a_proxy_stalls_restores_and_resets() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        proxy.stall()
        writer.write(b"two")
        answer = asyncio.create_task(reader.read(100))
        await asyncio.sleep(0.05)
        assert not answer.done()
        proxy.restore()
        assert await answer == b"two"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(100)
        writer.close()
