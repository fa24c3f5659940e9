"""What a text's preamble and language add to the ids of its utterances."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lighttts.v1 import encode_pb2
from services.common.checkpoint.model_dir import open_model_dir
from services.common.errors import InvalidInput
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.pronunciation.lexicon import NO_LEXICON
from services.encode.text.text_encoder import SentenceEncoder
from services.encode.text.turns import TextThreads
from services.encode.text_call import TextCall
from services.encode.text_request import TextRequests, primary_subtag

DATA = Path(__file__).parents[2] / "data"
PREAMBLE = "You are a helpful assistant. Speak fast.<|endofprompt|>"


@cache
def frontend(directory: Path = DATA / "cosyvoice3-mini") -> TextFrontend:
    return TextFrontend(open_model_dir(directory), Normaliser("builtin"))


async def answers(model: TextFrontend, *fragments: str, **start: Any) -> list[encode_pb2.EncodeTextResponse]:
    async def requests() -> AsyncIterator[encode_pb2.EncodeTextRequest]:
        for fragment in fragments:
            yield encode_pb2.EncodeTextRequest(fragment=fragment)

    message = encode_pb2.EncodeTextStart(**start)
    threads = TextThreads(1)
    try:
        encoder = SentenceEncoder(model, request=TextRequests(model).checked(message, NO_LEXICON))
        return [response async for response in TextCall(model, encoder, message, threads, 60.0).responses(requests())]
    finally:
        threads.close()


@pytest.mark.parametrize("fragments", [[PREAMBLE + "Hello there."], list(PREAMBLE + "Hello there.")])
async def test_a_preamble_takes_the_place_of_the_prompt_in_cross_lingual_speech(fragments: list[str]) -> None:
    model = frontend()
    (answer,) = await answers(model, *fragments, instruct_text="", notes=True)
    assert answer.text.text == "Hello there."
    assert list(answer.text.instruct_ids) == model.tokenizer.encode(PREAMBLE)
    assert (answer.text.start, answer.text.end) == (len(PREAMBLE), len(PREAMBLE) + 12)
    pause, _ = await answers(model, PREAMBLE + "[pause:1s]Hello.", instruct_text="", notes=True)
    assert (pause.text.start, pause.text.end) == (len(PREAMBLE), len(PREAMBLE) + 10)
    (usual,) = await answers(model, "Hello there.", instruct_text="")
    assert usual.text.instruct_ids != answer.text.instruct_ids
    warning, spoken = await answers(model, *fragments, notes=True)
    assert [one.code for one in warning.warnings] == ["preamble_dropped"]
    assert (spoken.text.text, list(spoken.text.instruct_ids)) == ("Hello there.", [])


async def test_a_caller_that_expects_no_notes_gets_only_ids() -> None:
    """A gateway of the last release."""
    texts = [answer.text for answer in await answers(frontend(), "One [applause] two. [pause:1s]Three.")]
    assert all(text.ids for text in texts)
    assert [text.utterance for text in texts] == list(range(len(texts)))


async def test_a_language_tag_of_the_checkpoint_precedes_every_utterance(tmp_path: Path) -> None:
    for path in (DATA / "cosyvoice2-mini").iterdir():
        (tmp_path / path.name).symlink_to(path)
    words = tmp_path / "CosyVoice-BlankEN"
    words.unlink()
    words.mkdir()
    for path in (DATA / "cosyvoice2-mini" / words.name).iterdir():
        (words / path.name).write_bytes(path.read_bytes())
    added = {"added_tokens_decoder": {"400": {"content": "<|en|>"}, "401": {"content": "<|yue|>"}}}
    (words / "tokenizer_config.json").write_text(json.dumps(added))
    model = frontend(tmp_path)
    tag = model.tokenizer.token_id("<|en|>")
    tagged = await answers(model, "Hello there. [pause:1s]Bye.", language="en-US")
    plain = await answers(model, "Hello there. [pause:1s]Bye.")
    assert [list(one.text.ids) for one in tagged] == [[tag, *one.text.ids] for one in plain]
    assert not any(tag in one.text.ids for one in plain)
    (named,) = await answers(model, "<|en|>Hello there.")
    assert list(named.text.ids) == [tag, *model.tokenizer.encode("Hello there.")], "the author may write it"
    (other,) = await answers(model, "Hello there.", language="de")
    assert list(other.text.ids) == model.tokenizer.encode("Hello there.")


async def test_a_language_that_the_model_does_not_speak_is_noted() -> None:
    (warning, spoken) = await answers(frontend(DATA / "cosyvoice2-mini"), "Es sind 22.", language="de-DE", notes=True)
    assert [one.code for one in warning.warnings] == ["language_not_spoken"]
    assert spoken.text.text == "Es sind zweiundzwanzig."
    with pytest.raises(InvalidInput, match="nothing to speak"):
        await answers(frontend(DATA / "cosyvoice2-mini"), "...", language="de-DE", notes=True)
    (only,) = await answers(frontend(DATA / "cosyvoice2-mini"), "It is 22.", language="en-GB", notes=True)
    assert not only.warnings


@pytest.mark.parametrize(
    ("tag", "subtag"),
    [("", ""), ("en", "en"), ("en-US", "en"), ("zh_CN", "zh"), ("cmn-Hans-CN", "zh"), ("yue", "yue"), ("DE", "de")],
)
def test_languages_are_tags_of_bcp_47(tag: str, subtag: str) -> None:
    assert primary_subtag(tag) == subtag


@pytest.mark.parametrize("tag", ["e", "english", "en-", "en US", "12", "en-" + "x" * 9])
def test_other_languages_are_refused(tag: str) -> None:
    with pytest.raises(InvalidInput, match="BCP-47") as refusal:
        primary_subtag(tag)
    assert refusal.value.field == "language"


@pytest.mark.parametrize("text", ["[sneeze]", "<foo></foo>", "Hello world. [pause:1s] <foo></foo>"])
async def test_what_is_left_out_at_the_end_of_the_text_is_noted(text: str) -> None:
    found = await answers(frontend(), text, notes=True)
    assert any(answer.warnings for answer in found)
