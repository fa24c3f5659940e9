"""CosyVoice3's llm with text that arrives in pieces: interleaved, or sentence by sentence if its card requires it.

The checkpoint of the golden vectors has random weights: its speech is meaningless, but always the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import torch

from lighttts.v1 import llm_pb2, voice_pb2
from services.common.checkpoint.model_dir import CARD, ModelDirError, open_model_dir
from services.common.settings import EMBEDDED_MODEL
from services.common.voices.message import to_message
from services.common.voices.voice import Voice, voice_identity
from services.llm.styles import read_styles
from tests.support.decode_worker import PROMPT_TOKENS, StartWorker, audio_of
from tests.support.llm import ROOT, Llm, Spoken, all_free, llm_service, refusal, start_message, text_message

MINI = ROOT / "tests" / "data" / "cosyvoice3-mini"
END_OF_PROMPT, FILL = 403, 6564
TEXT = tuple(range(20, 34))
SECONDS = 2.0
"""Longest utterance: random weights do not end it."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Make a model directory; the argument is the card's `text_streaming`."""
    torch.set_num_threads(1)

    def make(text_streaming: str) -> Path:
        path = tmp_path / text_streaming
        path.mkdir()
        for file in MINI.iterdir():
            (path / file.name).symlink_to(file)
        (path / CARD).write_text(f"name: third\ntext_streaming: {text_streaming}\n", encoding="utf-8")
        return path

    return make


def voice(model_dir: Path) -> voice_pb2.VoiceContent:
    """Return a voice with an instruction before its transcript, as in this family's prompts."""
    content = Voice(
        hash="hash-of-third",
        transcript="kindly<|endofprompt|>a prompt",
        prompt_text_ids=np.array([10, 11, END_OF_PROMPT, 12, 13, 14], dtype=np.int32),
        speech_tokens=np.arange(PROMPT_TOKENS, dtype=np.int32),
        mel=np.full((2 * PROMPT_TOKENS, 80), 0.5, dtype=np.float32),
        embedding=np.full(192, 0.25, dtype=np.float32),
        seconds=0.4,
    )
    return to_message(content, voice_identity(open_model_dir(model_dir)))


async def speak(llm: Llm, content: voice_pb2.VoiceContent, *texts: tuple[int, ...], **start: Any) -> Spoken:
    """Speak one utterance whose text is sent in these pieces, each after a response to the previous one."""
    spoken, left = Spoken(), list(texts)
    call = llm.stub.Generate()
    options = {"sampling": llm_pb2.SamplingOptions(max_seconds=SECONDS)} | start
    try:
        await call.write(llm_pb2.GenerateRequest(start=start_message(content.voice_hash, **options)))
        while isinstance(response := await call.read(), llm_pb2.GenerateResponse):
            if response.HasField("need_voice"):
                await call.write(llm_pb2.GenerateRequest(voice=content))
            elif left:
                await call.write(text_message(left.pop(0), last=not left))
            spoken.note(response)
    finally:
        call.cancel()
    return spoken


@pytest.mark.parametrize("pieces", [(TEXT,), (TEXT[:1], TEXT[1:]), (TEXT[:6], TEXT[6:7], TEXT[7:])])
async def test_a_sentence_that_comes_in_pieces_is_spoken_once_it_is_whole(
    worker: StartWorker, tmp_path: Path, checkpoint: Callable[[str], Path], pieces: tuple[tuple[int, ...], ...]
) -> None:
    decode, path = await worker(), checkpoint("sentence")
    async with llm_service(tmp_path, decode.address, model_dir=path, llm_backend="torch") as llm:
        alone = await speak(llm, voice(path), TEXT)
        spoken = await speak(llm, voice(path), *pieces)
        await all_free()
    assert spoken.raw_ids == alone.raw_ids
    assert [started.text_order for started in spoken.started] == [llm_pb2.TEXT_ORDER_WHOLE]
    assert FILL not in spoken.raw_ids
    assert spoken.kinds.count("heartbeat") >= len(pieces) - 1  # it reports that it waits for text
    assert np.array_equal(spoken.samples, audio_of(decode.calls[-1].tokens))


async def test_a_model_of_whole_sentences_refuses_interleaved_text(
    worker: StartWorker, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    decode, path = await worker(), checkpoint("sentence")
    async with llm_service(tmp_path, decode.address, model_dir=path, llm_backend="torch") as llm:
        start = start_message("any", text_order=llm_pb2.TEXT_ORDER_INTERLEAVED)
        code, error = await refusal(llm.generate(llm_pb2.GenerateRequest(start=start)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "sentence by sentence" in error.message


async def test_an_interleaved_text_is_spoken_alike_however_it_is_cut(
    worker: StartWorker, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    decode, path = await worker(), checkpoint("interleaved")
    async with llm_service(tmp_path, decode.address, model_dir=path, llm_backend="torch") as llm:
        order = {"text_order": llm_pb2.TEXT_ORDER_INTERLEAVED}
        whole = await speak(llm, voice(path), TEXT, **order)
        cut = await speak(llm, voice(path), TEXT[:3], TEXT[3:11], TEXT[11:], **order)
        await all_free()
    assert cut.raw_ids == whole.raw_ids
    assert FILL in whole.raw_ids


async def test_other_weights_are_a_style_of_their_own(
    worker: StartWorker, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    decode, path = await worker(), checkpoint("sentence")
    weights = torch.load(path / "llm.pt", weights_only=True)
    weights["llm_decoder.weight"] = weights["llm_decoder.weight"].flip(0)
    torch.save(weights, path / "llm.rl.pt")
    async with llm_service(tmp_path, decode.address, model_dir=path, llm_backend="torch") as llm:
        published = await speak(llm, voice(path), TEXT)
        assert (await llm.stub.ListStyles(llm_pb2.ListStylesRequest())).styles == ["default"]
    async with llm_service(tmp_path, decode.address, model_dir=path, llm_backend="torch", llm_weights="rl") as llm:
        assert (await llm.stub.ListStyles(llm_pb2.ListStylesRequest())).styles == ["rl"]
        reinforced = await speak(llm, voice(path), TEXT)
        assert (await speak(llm, voice(path), TEXT, style="rl")).raw_ids == reinforced.raw_ids != published.raw_ids
        code, error = await refusal(llm.generate(llm_pb2.GenerateRequest(start=start_message("any", style="default"))))
        assert (code, error.field) == (grpc.StatusCode.NOT_FOUND, "start.style")
        resume = llm_pb2.GenerateResume(raw_ids=published.raw_ids[:5], origin=published.started[0].origin)
        moved = start_message("any", text_order=llm_pb2.TEXT_ORDER_WHOLE, resume=resume)
        code, error = await refusal(llm.generate(llm_pb2.GenerateRequest(start=moved)))
        assert "of another weights" in error.message


def test_a_family_without_other_weights_says_so() -> None:
    with pytest.raises(ModelDirError, match="for a checkpoint of cosyvoice2 leave it empty"):
        read_styles(open_model_dir(EMBEDDED_MODEL), "rl")


@pytest.mark.parametrize(("weights", "words"), [("rl", "cosyvoice3 .* --llm rl"), ("dpo", "use rl or leave it empty")])
def test_weights_that_are_not_there_are_refused_at_the_start(
    weights: str, words: str, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelDirError, match=words):
        read_styles(open_model_dir(checkpoint("sentence")), weights)
