"""Finds pauses, tags, sounds and control tokens in plain text."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from services.encode.text.borders.units import end_of_unit
from services.encode.text.borders.words import words
from services.encode.text.markup import values
from services.encode.text.markup.items import Border, Item, Text, Warnings, pause
from services.encode.text.markup.sounds import Sounds

_OPENING = regex.compile(r"[<\[]")
_PAUSE = regex.compile(r"\[\s*pause\s*[:= ]\s*([^\[\]]{0,40}?)\s*\]|\[\s*pause\s*\]", regex.IGNORECASE)
_NAME = regex.compile(r"</?([A-Za-z][\w:.-]*)")
_BREAK_TIME = regex.compile(r"""\btime\s*=\s*["']?([^"'\s/>]*)""", regex.IGNORECASE)
_BREAK_STRENGTH = regex.compile(r"""\bstrength\s*=\s*["']?([\w-]*)""", regex.IGNORECASE)
_DEFAULT_PAUSE = 0.4
# Tags of HTML. Those of lines end a sentence, those of cells stay for the cleaning; no author needs a note about any.
_LINES = words("p div br hr li ul ol tr table h1 h2 h3 h4 h5 h6 blockquote section article dt dd dl")
_CELLS = frozenset(("td", "th"))
_INLINE = words(
    """
    a abbr b big code del em font i img ins kbd mark pre q samp small span strike sub sup tt u var thead tbody cite body
    html center figure figcaption wbr
    """
)


class InlineReader:
    """Reads plain text in fragments. What it yields does not depend on them, apart from where texts are divided."""

    def __init__(self, sounds: Sounds, warnings: Warnings) -> None:
        self._sounds = sounds
        self._warnings = warnings

    def read(self, text: str, offset: int, *, final: bool) -> tuple[list[Item], int]:
        """Return the items of `text`, and how many of its characters they cover; later text decides about the rest.

        `offset`: of the text in the client's text. `final`: no text follows.
        """
        items: list[Item] = []
        done = place = 0
        while (opening := _OPENING.search(text, place)) is not None:
            start = opening.start()
            end = end_of_unit(text, start, final=final)
            if end is None:
                return [*items, *_text(text[done:start], offset + done)], start
            if end == start:
                place = start + 1
                continue
            replacement = self._unit(text[start:end], offset + start)
            if replacement is not None:
                items += [*_text(text[done:start], offset + done), *replacement]
                done = end
            place = end
        return [*items, *_text(text[done:], offset + done)], len(text)

    def _unit(self, unit: str, start: int) -> list[Item] | None:
        """Return the items that replace a unit, or None if it is text."""
        end = start + len(unit)
        if unit[0] == "[":
            if (match := _PAUSE.fullmatch(unit)) is not None:
                return self._pause(match.group(1), start, end)
            return _replaced(self._sounds.bracket(unit, self._warnings), start, end)
        if unit.startswith("<|"):
            return _replaced(self._sounds.control(unit, self._warnings), start, end)
        name = _NAME.match(unit)
        if name is None or not name.group().isascii():  # a<b且b>c
            return [] if unit.startswith("<!") else None
        return self._tag(unit, name.group(1).lower().rstrip(":"), start, end)

    def _tag(self, unit: str, name: str, start: int, end: int) -> list[Item] | None:
        sound = self._sounds.tag(unit, self._warnings)
        if sound is not None:
            return _replaced(sound, start, end)
        if name == "break":
            return self._break(unit, start, end)
        if name in _LINES:
            return [Border()]
        if name in _CELLS or name in ("http", "https", "mailto"):
            return None
        if name not in _INLINE:
            self._warnings.add("tag_dropped", f"{unit[:80]} is a tag and was left out; SSML begins with <speak>")
        return []

    def _pause(self, value: str | None, start: int, end: int) -> list[Item]:
        seconds = _DEFAULT_PAUSE if value is None else values.seconds(value)
        if seconds is None:
            self._warnings.add(
                "pause_ignored", f"[pause:{value}] needs a length such as 500ms or 1.5s; it was left out"
            )
            return []
        return [pause(seconds, start, end, self._warnings)] if seconds > 0 else []

    def _break(self, unit: str, start: int, end: int) -> list[Item]:
        time, strength = _BREAK_TIME.search(unit), _BREAK_STRENGTH.search(unit)
        if time is None and strength is not None:
            seconds = values.STRENGTHS.get(strength.group(1).lower())
        else:
            seconds = _DEFAULT_PAUSE if time is None else values.seconds(time.group(1))
        if seconds is None:
            self._warnings.add("pause_ignored", f"{unit[:80]} needs a time such as 500ms or 1.5s; it was left out")
            return []
        return [pause(seconds, start, end, self._warnings)] if seconds > 0 else []


def _text(text: str, start: int) -> Iterator[Item]:
    if text:
        yield Text(text, start, start + len(text))


def _replaced(token: str | None, start: int, end: int) -> list[Item] | None:
    if token is None:
        return None
    return [Text(token, start, end)] if token else []
