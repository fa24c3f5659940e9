"""Text that arrives during generation, utterances continued from any point, styles, order and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lighttts.v1 import audio_pb2, llm_pb2
from services.common.checkpoint.model_dir import CARD
from services.common.workers.call_end import CallEnd, answers
from services.llm.engine.engine import LlmEngine
from services.llm.engine.scheduler import ScheduledSequence, Scheduler
from services.llm.engine.sequence import Request
from services.llm.settings import LlmSettings
from tests.support.decode_worker import SAMPLE_RATE, StartWorker, audio_of
from tests.support.llm import (
    LIMIT_SECONDS,
    SPEECH_TOKENS,
    TEXT,
    TINY,
    VOICE,
    Llm,
    Spoken,
    all_free,
    llm_service,
    metric,
    refusal,
    start_message,
    starting,
    text_message,
    until,
)

FILL = 731
"""The embedded voice's fill id: two above its 729 speech ids."""
OFFLINE = audio_pb2.Urgency(priority=audio_pb2.Urgency.PRIORITY_OFFLINE)


@pytest.fixture
def interleaved(tmp_path: Path) -> Path:
    """The embedded voice with a card for interleaved text, and with two styles."""
    path = tmp_path / "model"
    path.mkdir()
    for file in TINY.iterdir():
        if file.name != CARD:
            (path / file.name).symlink_to(file)
    (path / CARD).write_text("name: interleaved\ntext_streaming: interleaved\n")
    styles = [{"style_name": "calm", "llm_path": "llm.pt"}, {"style_name": "lively", "llm_path": str(TINY / "llm.pt")}]
    (path / "style_config.json").write_text(json.dumps({"lora_info": styles}))
    return path


async def converse(
    llm: Llm, spoken: Spoken, messages: AsyncIterator[Any], *, half_close: bool = False, **start: Any
) -> None:
    """Run an utterance whose further messages come from `messages`."""
    call = llm.stub.Generate()
    end = CallEnd(call)
    writing = asyncio.Lock()  # gRPC refuses a write while another one is under way

    async def send(message: llm_pb2.GenerateRequest) -> None:
        async with writing:
            await call.write(message)

    async def write() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the service may end the call first
            await send(starting(**start))
            async for message in messages:
                await send(message)
            if half_close:
                await call.done_writing()

    writer = asyncio.create_task(write())
    try:
        async for response in answers(call, end):
            if response.HasField("need_voice"):
                await send(llm_pb2.GenerateRequest(voice=VOICE))
            spoken.note(response)
    finally:
        writer.cancel()
        call.cancel()


async def at_once(*texts: Sequence[int], last: bool = True) -> AsyncIterator[llm_pb2.GenerateRequest]:
    for number, ids in enumerate(texts):
        yield text_message(ids, last=last and number == len(texts) - 1)


async def test_audio_comes_while_text_is_still_arriving(worker: StartWorker, tmp_path: Path, interleaved: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, model_dir=interleaved) as llm:
        spoken, whole, halves = Spoken(), Spoken(), Spoken()

        async def word_by_word() -> AsyncIterator[llm_pb2.GenerateRequest]:
            for number, token in enumerate(TEXT):
                if number == 15:
                    await until(lambda: bool(spoken.audio))  # three blocks of five are enough for the first hop
                yield text_message([token], last=token == TEXT[-1])

        await converse(llm, spoken, word_by_word())
        await converse(llm, whole, at_once(TEXT), text_order=llm_pb2.TEXT_ORDER_INTERLEAVED)
        await converse(llm, halves, at_once(TEXT[:10], TEXT[10:], last=False), half_close=True)
        await all_free()
    orders = [received.started[0].text_order for received in (spoken, whole, halves)]
    assert orders == [llm_pb2.TEXT_ORDER_INTERLEAVED] * 3
    assert FILL in spoken.raw_ids
    assert spoken.raw_ids == whole.raw_ids == halves.raw_ids
    tokens = [token for token in spoken.raw_ids if token != FILL]
    assert decode.calls[0].tokens == tokens
    assert np.array_equal(spoken.samples, audio_of(tokens))
    assert spoken.done is not None
    assert spoken.done.speech_tokens == len(tokens)


async def test_text_that_is_complete_at_once_is_whole(worker: StartWorker, tmp_path: Path, interleaved: Path) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, model_dir=interleaved) as llm:
        spoken = await llm.speak()
        forced = Spoken()
        await converse(llm, forced, at_once(TEXT[:3], TEXT[3:]), text_order=llm_pb2.TEXT_ORDER_WHOLE)
    assert spoken.started[0].text_order == llm_pb2.TEXT_ORDER_WHOLE
    assert spoken.raw_ids == forced.raw_ids
    assert FILL not in spoken.raw_ids


async def test_bad_text_that_comes_late_ends_its_own_utterance(
    worker: StartWorker, tmp_path: Path, interleaved: Path
) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, model_dir=interleaved, max_request_tokens=200) as llm:
        await llm.speak()
        for late, words in ((text_message([99999]), "text id 99999"), (text_message([5] * 250), "more than 200")):
            code, error = await refusal(llm.generate(starting(), text_message(TEXT, last=False), late))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert words in error.message
        long = [text_message([5] * 60, last=False)] * 3
        code, error = await refusal(llm.generate(starting(), *long))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "split the text" in error.message
        await all_free()


@pytest.mark.parametrize("order", [llm_pb2.TEXT_ORDER_WHOLE, llm_pb2.TEXT_ORDER_INTERLEAVED])
async def test_another_worker_goes_on_at_the_exact_sample(
    worker: StartWorker, tmp_path: Path, interleaved: Path, order: llm_pb2.TextOrder.ValueType
) -> None:
    decode, elsewhere = await worker(), await worker()
    async with llm_service(tmp_path, decode.address, model_dir=interleaved) as llm:
        first = await llm.speak(text_order=order)
    async with llm_service(tmp_path, elsewhere.address, model_dir=interleaved, lead_seconds=0.1) as llm:
        raw_ids: list[int] = []
        samples = 0
        for audio in first.audio[:-1]:
            raw_ids += audio.raw_ids
            samples += len(audio.audio.pcm) // 4
            for record in (audio.decode_record, b""):  # without the record all audio is decoded again and dropped
                resume = llm_pb2.GenerateResume(raw_ids=raw_ids, decode_record=record, next_sample=samples)
                rest = Rest(samples)
                await converse(llm, rest, at_once(TEXT[:2], TEXT[2:]), text_order=order, resume=resume)
                assert raw_ids + rest.raw_ids == first.raw_ids
                assert np.array_equal(rest.samples, first.samples[samples:])
                assert elsewhere.calls[-1].tokens == decode.calls[0].tokens
                assert rest.done is not None
                assert first.done is not None
                assert (rest.done.reason, rest.done.speech_tokens) == (first.done.reason, first.done.speech_tokens)
        await all_free()


@pytest.mark.parametrize("admitted", [True, False])
async def test_a_resumed_utterance_is_due_when_its_listener_runs_dry(
    worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, admitted: bool
) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        first = await llm.speak()
        samples = sum(len(chunk) for chunk in first.chunks[:3])
        raw_ids = [token for audio in first.audio[:3] for token in audio.raw_ids]
        latest: list[float] = []
        """Seconds by which playback began sooner than it could if the audio so far had been played, for each report."""
        submit, set_play_at = LlmEngine.submit, LlmEngine.set_play_at

        def note(play_at: float | None, target: float) -> None:
            assert play_at is not None
            latest.append(time.monotonic() + target - samples / SAMPLE_RATE - play_at)

        def submitted(self: LlmEngine, request: Request, *others: Any) -> Any:
            note(request.play_at, LlmSettings().first_audio_target_seconds)
            return submit(self, request, *others)

        def reported(self: LlmEngine, handle: Any, play_at: float | None) -> None:
            note(play_at, 0.0)
            set_play_at(self, handle, play_at)

        monkeypatch.setattr(LlmEngine, "submit", submitted)
        monkeypatch.setattr(LlmEngine, "set_play_at", reported)
        resume = llm_pb2.GenerateResume(
            raw_ids=raw_ids, decode_record=first.audio[2].decode_record, next_sample=samples
        )
        place, whole = audio_pb2.SessionPlace(session="one", admitted=admitted), llm_pb2.TEXT_ORDER_WHOLE
        await converse(llm, Rest(samples), at_once(TEXT), text_order=whole, resume=resume, place=place)
    assert len(latest) == 2
    assert min(latest) >= 0


class Rest(Spoken):
    """The audio from a sample on."""

    def __init__(self, first_sample: int) -> None:
        super().__init__()
        self._first_sample = first_sample

    def _note_audio(self, generated: llm_pb2.GeneratedAudio) -> None:
        assert generated.audio.first_sample == self._first_sample + sum(map(len, self.chunks))
        generated.audio.first_sample -= self._first_sample
        super()._note_audio(generated)


async def test_raw_ids_of_a_cut_between_two_messages_are_enough(worker: StartWorker, tmp_path: Path) -> None:
    """Ids that were generated and not reported are generated again, so any prefix works."""
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        first = await llm.speak()
        for cut in (1, 30, SPEECH_TOKENS - 1, SPEECH_TOKENS):
            resume = llm_pb2.GenerateResume(raw_ids=first.raw_ids[:cut])
            rest = await llm.speak(resume=resume, text_order=llm_pb2.TEXT_ORDER_WHOLE)
            assert first.raw_ids[:cut] + rest.raw_ids == first.raw_ids
            assert np.array_equal(rest.samples, first.samples)


async def test_styles_are_listed_and_unknown_ones_name_the_known(
    worker: StartWorker, tmp_path: Path, interleaved: Path
) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, model_dir=interleaved, llm_backend="torch") as llm:
        listed = await llm.stub.ListStyles(llm_pb2.ListStylesRequest())
        spoken = [await llm.speak(TEXT[:4], style=style) for style in ("", "default", "calm", "lively")]
        code, error = await refusal(llm.generate(starting(style="opera")))
    assert list(listed.styles) == ["default", "calm", "lively"]
    assert len({tuple(received.raw_ids) for received in spoken}) == 1, "all are the same checkpoint here"
    assert (code, error.field) == (grpc.StatusCode.NOT_FOUND, "start.style")
    assert error.message == "there is no style 'opera'; choose one of default, calm, lively"


@pytest.fixture
def pause_seen(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds the engine after the step with which it pauses a sequence, until the event is set."""
    seen, schedule = threading.Event(), Scheduler.schedule

    def held(self: Scheduler, num_steps: int = 1) -> list[ScheduledSequence]:
        assert not self.paused or seen.wait(LIMIT_SECONDS)
        return schedule(self, num_steps)

    monkeypatch.setattr(Scheduler, "schedule", held)
    return seen


async def test_offline_work_makes_room_for_a_listener(
    worker: StartWorker, tmp_path: Path, pause_seen: threading.Event
) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, step_s=0.002, lead_seconds=60.0) as llm:
        offline = asyncio.create_task(llm.speak(tuple(range(5, 205)), urgency=OFFLINE))
        await until(lambda: metric("lighttts_llm_sequences_running") == 1)
        listened = asyncio.create_task(llm.speak())
        await until(lambda: metric("lighttts_llm_sequences_paused") == 1)
        pause_seen.set()
        received = await listened
        assert not offline.done()
        assert len((await offline).raw_ids) == 200 * 6
    assert len(received.raw_ids) == SPEECH_TOKENS


async def test_a_listener_with_a_long_lead_makes_room(
    worker: StartWorker, tmp_path: Path, pause_seen: threading.Event
) -> None:
    decode = await worker()
    options: dict[str, Any] = {"step_s": 0.002, "lead_seconds": 60.0, "pause_lead_seconds": 1.0}
    async with llm_service(tmp_path, decode.address, **options) as llm:
        before = metric("lighttts_llm_tokens_generated_total")
        playing = asyncio.create_task(llm.speak(tuple(range(5, 205))))
        await until(lambda: metric("lighttts_llm_tokens_generated_total") > before + 100)
        newcomer = asyncio.create_task(llm.speak())
        await until(lambda: metric("lighttts_llm_sequences_paused") == 1)
        pause_seen.set()
        assert len((await newcomer).raw_ids) == SPEECH_TOKENS
        assert len((await playing).raw_ids) == 200 * 6


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
async def test_a_position_must_be_a_number(worker: StartWorker, tmp_path: Path, seconds: float) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)
    async with llm_service(tmp_path, decode.address) as llm:
        voice = llm_pb2.GenerateRequest(voice=VOICE)
        position = llm_pb2.GenerateRequest(position=audio_pb2.PlaybackPosition(seconds=seconds))
        code, error = await refusal(llm.generate(starting(), voice, text_message(TEXT), position))
        assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "position.seconds")
        await all_free()


async def test_tokens_steps_and_latencies_are_counted(worker: StartWorker, tmp_path: Path) -> None:
    names = ("tokens_generated_total", "first_token_seconds_count", "lead_seconds_count", "batch_size_count")
    before = [metric(f"lighttts_llm_{name}") for name in names]
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        spoken = await llm.speak()
        tokens, first_tokens, leads, steps = (
            metric(f"lighttts_llm_{name}") - old for name, old in zip(names, before, strict=True)
        )
        text = await llm.speak()
        assert text.raw_ids == spoken.raw_ids
    warm_up = 4
    assert tokens == SPEECH_TOKENS + warm_up
    assert (first_tokens, leads) == (1, len(spoken.audio))
    assert steps > SPEECH_TOKENS


async def test_cancellations_are_counted_by_what_they_interrupt(worker: StartWorker, tmp_path: Path) -> None:
    gate = asyncio.Event()
    decode = await worker(gate=gate)

    def count(phase: str) -> float:
        return metric("lighttts_llm_cancellations_total", phase=phase)

    before = {phase: count(phase) for phase in ("voice", "text", "generating", "speaking")}
    async with llm_service(tmp_path, decode.address, lead_seconds=2.0) as llm:
        voice = llm_pb2.GenerateRequest(voice=VOICE)
        cases: dict[str, list[llm_pb2.GenerateRequest]] = {
            "voice": [],
            "text": [voice, text_message(TEXT, last=False)],
            "generating": [voice, text_message(TEXT)],
            "speaking": [voice, text_message(TEXT[:2])],
        }

        def has_hops(calls: int) -> bool:
            return len(decode.calls) > calls and bool(decode.calls[-1].hops)

        def is_counted(phase: str) -> bool:
            return count(phase) == before[phase] + 1

        for phase, messages in cases.items():
            calls = len(decode.calls)
            call = llm.stub.Generate()
            await call.write(llm_pb2.GenerateRequest(start=start_message(text_order=llm_pb2.TEXT_ORDER_WHOLE)))
            for message in messages:
                await call.write(message)
            if phase in ("generating", "speaking"):
                await until(partial(has_hops, calls))
            else:
                beats = 0
                while beats < 3:  # the sent messages have been received
                    beats += (await call.read()).HasField("heartbeat")
            call.cancel()
            await until(partial(is_counted, phase))
        await all_free()
