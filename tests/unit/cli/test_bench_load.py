"""Loads: when requests are due, what they speak, and which files describe them."""

from __future__ import annotations

import asyncio
import math
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from cli.bench.apis import Answer, Api
from cli.bench.connection import open_api
from cli.bench.generator import offer
from cli.bench.load import Load, TraceError, arrivals, read_trace, text_load
from cli.bench.prompts import SETS, Prompt, PromptError, read_prompts, with_voices
from cli.client import Access, ClientError, Refused

PCM = b"\x10\x10" * 24


class SpeechHandler(BaseHTTPRequestHandler):
    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.paths.append(self.path)
        self.send_response(200)
        self.send_header("content-length", str(len(PCM)))
        self.end_headers()
        self.wfile.write(PCM)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_an_address_of_openai_s_api_may_end_in_v1(path: str) -> None:
    """OpenAI's own client takes it so."""
    SpeechHandler.paths.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), SpeechHandler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        answer = Answer()
        async with open_api("openai", Access(f"http://127.0.0.1:{server.server_port}{path}")) as api:
            await api.speak(Prompt("Hi."), 0, answer)
        server.shutdown()
    assert SpeechHandler.paths == ["/v1/audio/speech"]
    assert answer.playback.seconds > 0


class FakeServer(Api):
    """Answers with a little audio; refuses where `refuses` is set. Knows how many requests were under way at once."""

    def __init__(self, refuses: bool = False, waits: int = 0) -> None:
        self.asked: list[tuple[Prompt, int]] = []
        self.refuses = refuses
        self.waits = waits
        self.now = self.most = 0

    async def speak(self, prompt: Prompt, seed: int, answer: Answer) -> None:
        self.asked.append((prompt, seed))
        if self.refuses:
            raise Refused("full")
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(self.waits):
            await asyncio.sleep(0)
        answer.take(PCM, 24_000)
        self.now -= 1


def test_arrivals_are_poisson_and_repeatable() -> None:
    load = text_load("text", rate=20.0, seconds=500.0, seed=3)
    times = list(arrivals(load))
    assert times == list(arrivals(load))
    assert times != list(arrivals(text_load("text", 20.0, 500.0, seed=4)))
    assert times == sorted(times)
    assert times[-1] < 500
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert spread == pytest.approx(mean, rel=0.1)  # as for exponential gaps


async def test_an_open_load_sends_every_request_with_its_own_prompt_and_seed() -> None:
    server, prompts = FakeServer(), (Prompt("one"), Prompt("two", "hugo"))
    run = await offer(server, Load(prompts, times=(0.0, 0.001, 0.002, 9.0), seconds=5.0, seed=7))
    assert server.asked == [(prompts[0], 7), (prompts[1], 8), (prompts[0], 9)]
    assert all(one.completed for one in run.outcomes)
    assert all(one.ended_at >= one.due_at for one in run.outcomes)
    assert len(run.lags) >= 3


async def test_a_closed_load_keeps_its_streams_under_way() -> None:
    server = FakeServer(waits=3)
    run = await offer(server, Load(streams=3, seconds=0.05))
    assert server.most == 3
    assert len(run.outcomes) == len(server.asked) >= 3
    assert sorted(seed for _, seed in server.asked) == list(range(len(server.asked)))


async def test_a_server_that_refuses_is_not_flooded() -> None:
    server = FakeServer(refuses=True)
    run = await offer(server, Load(streams=2, seconds=0.1))
    assert all(one.refused for one in run.outcomes)
    assert len(server.asked) <= 2 * (0.1 / 0.01 + 1)


async def test_an_answer_without_audio_and_an_error_are_outcomes() -> None:
    class Broken(FakeServer):
        async def speak(self, prompt: Prompt, seed: int, answer: Answer) -> None:
            if seed:
                raise ClientError("broken")

    run = await offer(Broken(), Load(times=(0.0, 0.0)))
    assert [one.failure for one in run.outcomes] == ["no audio arrived", "broken"]


def test_every_set_has_texts_and_the_default_has_several_sentences() -> None:
    assert {"sentences", "turns", "paragraphs", "mixed", "chinese"} == set(SETS)
    assert SETS["sentences"][0].text.count(". ") >= 2
    assert all(one.text.strip() for prompts in SETS.values() for one in prompts)
    assert len(SETS["mixed"]) == len(SETS["turns"]) + len(SETS["paragraphs"])


def test_prompts_come_from_a_file_of_texts_and_objects(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('Good morning.\n\n{"text": "Guten Tag.", "voice": "hugo", "language": "de"}\n', encoding="utf-8")
    assert read_prompts(str(path)) == (Prompt("Good morning."), Prompt("Guten Tag.", "hugo", "de"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no text"),
        ("fine\n{broken", "line 2: not JSON"),
        ('{"text": ""}', "line 1: `text` must be"),
        ('{"text": "a", "speed": 2}', "unknown field speed"),
        ('{"text": "a", "voice": 3}', "`voice` and `language`"),
    ],
)
def test_a_bad_file_of_prompts_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_prompts(str(path))


def test_a_set_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(PromptError, match=r"neither a set of prompts .*turns.* nor a file"):
        read_prompts("tunrs")


def test_voices_speak_each_text_unless_it_names_its_own() -> None:
    prompts = (Prompt("one"), Prompt("two", "own"))
    assert with_voices(prompts, ["a", "b"]) == (Prompt("one", "a"), Prompt("one", "b"), Prompt("two", "own"))
    assert with_voices(prompts, []) == prompts


def test_a_trace_begins_at_its_first_request(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('12.5\n{"at": 10, "user": 3}\n11\n', encoding="utf-8")
    assert read_trace(path) == (0.0, 1.0, 2.5)


@pytest.mark.parametrize(
    ("content", "message"), [("", "no times"), ("1\nsoon", "line 2"), ('{"when": 1}', "line 1"), ("NaN", "not a time")]
)
def test_a_bad_trace_names_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TraceError, match=message):
        read_trace(path)
