"""CosyVoice3's text: preambles of every mode, phones in brackets, sounds, and text that arrives in pieces."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from services.common.checkpoint.model_dir import open_model_dir
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.text_encoder import InterleavedEncoder, SentenceEncoder, TextEncoder

MINI = Path(__file__).parents[2] / "data" / "cosyvoice3-mini"
PREAMBLE = "You are a helpful assistant.<|endofprompt|>"
END_OF_PROMPT = 403


@cache
def frontend() -> TextFrontend:
    return TextFrontend(open_model_dir(MINI), Normaliser("builtin"))


def ids_of(encoder: TextEncoder, *fragments: str) -> list[int]:
    steps = chain(*(encoder.push(fragment) for fragment in fragments), encoder.finish())
    return [id_ for pieces in steps for piece in pieces for id_ in piece.ids]


def test_every_mode_has_its_preamble() -> None:
    """Zero-shot, instructed, cross-lingual; a client's own preamble is kept."""
    encode, front = frontend().tokenizer.encode, frontend()
    assert front.prompt_ids("Hello there.").tolist() == encode(f"{PREAMBLE}Hello there.")
    assert front.prompt_ids(f"{PREAMBLE}Hello there.").tolist() == encode(f"{PREAMBLE}Hello there.")
    instructed = encode("You are a helpful assistant. Speak softly.<|endofprompt|>")
    assert list(front.instruct_ids(" Speak softly. ")) == instructed
    assert list(front.instruct_ids("Speak softly.<|endofprompt|>")) == encode("Speak softly.<|endofprompt|>")
    assert list(front.instruct_ids("")) == encode(PREAMBLE)
    for ids in (front.prompt_ids("Hello.").tolist(), instructed, encode(PREAMBLE)):
        assert ids.count(END_OF_PROMPT) == 1


@pytest.mark.parametrize("encoder", [SentenceEncoder, InterleavedEncoder])
def test_phones_and_sounds_are_single_ids_however_the_text_is_cut(encoder: type[TextEncoder]) -> None:
    front = frontend()
    (phones, breath) = (front.tokenizer.encode("[j][ǐ]"), *front.tokenizer.encode("[breath]"))
    assert len(phones) == 2
    text = "The [j][ǐ] of it.[breath] Yes."
    whole = ids_of(encoder(front), text)  # type: ignore[call-arg]
    assert [id_ for id_ in whole if id_ in (*phones, breath)] == [*phones, breath]
    assert whole.index(phones[0]) + 1 == whole.index(phones[1])
    for cut in (5, 6, 8, 9, 19):
        assert ids_of(encoder(front), text[:cut], text[cut:]) == whole  # type: ignore[call-arg]
    assert ids_of(encoder(front), *text) == whole  # type: ignore[call-arg]
