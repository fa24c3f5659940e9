"""Texts that a load speaks: three sets, or a file of the user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


class PromptError(ValueError):
    """A file of prompts cannot be used; the message names the line."""


@dataclass(frozen=True)
class Prompt:
    """One text, and who speaks it."""

    text: str
    voice: str | None = None
    """None: the server's default."""
    language: str = ""
    """BCP-47; empty: the server decides by the letters."""


SENTENCES = (
    "Good morning, and thank you for calling the library.",
    "The book that you asked for came back this week.",
    "We keep it for you until the end of the month.",
    "Please bring your card when you come to the desk.",
    "The doors are open from nine until six in the evening.",
    "On Sundays only the reading room is open.",
    "If you want to keep it longer, call us again.",
    "We wish you a pleasant day, and goodbye.",
)
"""Sentences of about equal length, for texts whose number of sentences matters."""


def text_of(sentences: int) -> str:
    """Return a text of this many sentences."""
    return " ".join(SENTENCES[number % len(SENTENCES)] for number in range(sentences))


TURNS = (
    "Yes, of course.",
    "Let me see what I can find.",
    "Your table is ready, the waiter will show you the way.",
    "I'm sorry, the office is closed today.",
    "The next train to Oxford leaves in twenty minutes.",
    "Could you tell me your name, please?",
    "That will be twelve pounds and fifty pence.",
    "Thank you. Is there anything else that I can do for you?",
    "The weather stays dry until the evening.",
    "I have moved your appointment to Thursday morning.",
    "One moment, I will put you through.",
    "Both rooms have a view of the garden.",
)
"""What an assistant says in a conversation: one or two short sentences."""

PARAGRAPHS = (
    "The old mill stood at the edge of the village, where the road turned down to the river. Nobody had worked in "
    "it for thirty years. In the summer the children swam below the wheel, and in the winter the wind moved its "
    "broken shutters.",
    "Before you start, read the whole recipe. Weigh the flour and the butter, and take the eggs out of the fridge "
    "early, so that they are not cold. Then heat the oven, and put the tin on the middle shelf. The cake needs "
    "forty minutes.",
    "A lighthouse keeper had few visitors. He cleaned the lamp every morning, wrote down the weather at noon, and "
    "lit the lamp again at dusk. When a ship was late, he looked for it from the upper window until he saw its "
    "lights.",
    "Our offices are open from Monday to Friday. If you call at another time, please leave your name and your "
    "number after the tone, and tell us what your question is about. Somebody will call you back on the next "
    "working day.",
)
"""Read aloud: three sentences or more, 200 characters and more."""

CHINESE = (
    "早上好，欢迎致电图书馆。",
    "您预订的书这个星期已经还回来了。",
    "下一班火车二十分钟以后开。",
    "对不起，办公室今天不开门。如果您有急事，请留下您的姓名和电话。",
)

MIXED = tuple(
    text for number, paragraph in enumerate(PARAGRAPHS) for text in (*TURNS[3 * number : 3 * number + 3], paragraph)
)

SETS: dict[str, tuple[Prompt, ...]] = {
    "sentences": (Prompt(text_of(3)),),
    "turns": tuple(map(Prompt, TURNS)),
    "paragraphs": tuple(map(Prompt, PARAGRAPHS)),
    "mixed": tuple(map(Prompt, MIXED)),
    "chinese": tuple(Prompt(text, language="zh") for text in CHINESE),
}
"""Sets by name. `sentences` has one text of three sentences; `mixed` has a paragraph after every third turn."""


def read_prompts(name: str) -> tuple[Prompt, ...]:
    """Return a set by its name, or the prompts of a file.

    Each line of a file is a text, or a JSON object with `text` and optionally `voice` and `language`. Raises
    PromptError.
    """
    if name in SETS:
        return SETS[name]
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        known = ", ".join(SETS)
        raise PromptError(f"{name} is neither a set of prompts ({known}) nor a file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is not UTF-8 text") from error
    found = tuple(_prompt(line, f"{name}, line {number}") for number, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise PromptError(f"{name} has no text")
    return found


def _prompt(line: str, place: str) -> Prompt:
    if not line.lstrip().startswith("{"):
        return Prompt(line.strip())
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{place}: not JSON ({error})") from error
    unknown = set(fields) - {"text", "voice", "language"}
    if unknown:
        raise PromptError(f"{place}: unknown field {sorted(unknown)[0]}; a prompt has text, voice and language")
    text, voice, language = fields.get("text"), fields.get("voice"), fields.get("language") or ""
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{place}: `text` must be a text that is not empty")
    if not (voice is None or isinstance(voice, str)) or not isinstance(language, str):
        raise PromptError(f"{place}: `voice` and `language` must be texts")
    return Prompt(text.strip(), voice or None, language)


def with_voices(prompts: Sequence[Prompt], voices: Sequence[str]) -> tuple[Prompt, ...]:
    """Return every prompt that names no voice spoken by each of `voices`."""
    if not voices:
        return tuple(prompts)
    spoken = (replace(one, voice=one.voice or voice) for one in prompts for voice in voices)
    return tuple(dict.fromkeys(spoken))
