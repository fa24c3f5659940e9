"""Reads a document of the Speech Synthesis Markup Language (W3C SSML 1.1), as far as the models can follow it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from xml.parsers import expat

import regex

from services.common.errors import InvalidInput
from services.encode.text.markup import say_as, values
from services.encode.text.markup.items import PLAIN, Border, Item, Style, Text, Warnings, pause
from services.encode.text.normalise import HAN_LANGUAGES, language_of
from services.encode.text.pronunciation.phones import Pronouncer

START = regex.compile(
    r"\ufeff?\s*(?:<\?xml[^<>]{0,200}\?>\s*)?(?:<!DOCTYPE\s[^<>\[\]]{0,300}(?:\[[^\]]{0,4000}\]\s*)?>\s*)?<speak(?=[\s>/])"
)
"""The beginning of a text that is SSML."""
EMPTY = regex.compile(START.pattern + r"""(?:[^<>"'/]|"[^"<]*"|'[^'<]*')*/>""")
"""A document without text."""
_TAG = regex.compile(r"""<(?:[^"'>]|"[^"]*"|'[^']*')*>""")
CLOSE = "</speak"
MAX_DEPTH = 64

_SILENT = frozenset({"metadata", "meta", "desc", "lexicon", "mark", "style", "script", "title"})
"""Elements whose text is not spoken."""
_TRANSPARENT = frozenset({"speak", "w", "token", "lang", "voice"})
_BORDERS = frozenset({"p", "s", "paragraph", "sentence", "div", "li", "br", "h1", "h2", "h3"})


@dataclass
class _Element:
    name: str
    attributes: dict[str, str]
    start: int
    """Characters of the document before it."""
    style: Style
    language: str
    text: list[str] = field(default_factory=list)
    """The text of an element that is replaced as a whole."""


class _Closed(Exception):
    """The document has ended."""


@dataclass(frozen=True)
class Document:
    """A document that was read."""

    items: list[Item]
    length: int
    """Characters of the document."""
    language: str
    """`xml:lang` of the document; empty if it has none."""


def read(text: str, pronouncer: Pronouncer, language: str, warnings: Warnings, *, final: bool) -> Document | None:
    """Read the document at the beginning of `text`; None if it has not ended and more text may follow.

    `language`: of the request. Raises InvalidInput if the document is malformed, with the line and the position.
    """
    reader = _Reader(text, pronouncer, language, warnings)
    try:
        reader.parse()
    except _Closed:
        return Document(reader.items, reader.end, reader.language)
    except expat.ExpatError as error:
        incomplete = error.code in _INCOMPLETE
        if incomplete and not final:
            return None
        reason = "the document is not closed; add </speak>" if incomplete else expat.ErrorString(error.code)
        raise _malformed(reason, error.lineno, error.offset + 1) from error
    return None  # not reached: a complete document closes its root


_INCOMPLETE = frozenset(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)


def _malformed(reason: str, line: int, position: int) -> InvalidInput:
    return InvalidInput(
        f"text is not well-formed SSML: {reason} (line {line}, position {position}); mend the markup, or send plain"
        " text that does not begin with <speak",
        field="text",
    )


class _Reader:
    """Collects the items of one document. Entities are not declared, so none can expand."""

    def __init__(self, text: str, pronouncer: Pronouncer, language: str, warnings: Warnings) -> None:
        self.items: list[Item] = []
        self.end = 0
        self.language = ""
        self._request_language = language
        self._text = text
        self._data = text.encode()
        self._pronouncer = pronouncer
        self._warnings = warnings
        self._elements: list[_Element] = []
        self._silent = 0
        self._replaced: _Element | None = None
        self._counted = (0, 0)  # bytes, and the characters in them
        self._pending: tuple[str, int] | None = None
        parser = self._parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._close
        parser.CharacterDataHandler = self._characters
        parser.SkippedEntityHandler = self._entity
        parser.CommentHandler = lambda _: self._place()
        parser.ProcessingInstructionHandler = lambda _, __: self._place()

    def parse(self) -> None:
        self._parser.Parse(self._data, True)

    def _place(self) -> int:
        """Return the characters of the document before the current event; end the text before it."""
        wanted = self._parser.CurrentByteIndex
        counted, characters = self._counted
        if wanted < counted:
            counted = characters = 0
        place = characters + len(self._data[counted:wanted].decode(errors="ignore"))
        self._counted = wanted, place
        if self._pending is not None:
            text, start = self._pending
            self._pending = None
            self._add(text, start, place)
        return place

    def _doctype(self, _name: str, _system: str | None, _public: str | None, internal: bool) -> None:
        if internal:
            raise self._refused("declarations inside <!DOCTYPE> are not accepted")

    def _entity(self, name: str, _parameter: bool) -> None:
        raise self._refused(f"unknown entity &{name};")

    def _refused(self, reason: str) -> InvalidInput:
        return _malformed(reason, self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        place = self._place()
        if not self._elements and name != "speak":
            raise self._refused("the outermost element must be <speak>")
        if len(self._elements) >= MAX_DEPTH:
            raise self._refused(f"more than {MAX_DEPTH} elements inside each other")
        outer = self._elements[-1] if self._elements else None
        style = outer.style if outer is not None else PLAIN
        element = _Element(
            name, attributes, place, style, outer.language if outer is not None else self._request_language
        )
        self._elements.append(element)
        if name in _SILENT:
            self._silent += 1
        if not self._silent and self._replaced is None:
            self._open(element)

    def _open(self, element: _Element) -> None:
        name = element.name
        if name == "speak" and len(self._elements) == 1:
            self.language = element.attributes.get("xml:lang", "")
            element.language = element.language or self.language
        elif name in ("sub", "say-as", "phoneme"):
            self._replaced = element
        elif name == "prosody":
            element.style = self._prosody(element)
        elif name == "emphasis":
            self._emphasis(element, opening=True)
        elif name in _BORDERS:
            self.items.append(Border())
        elif name in ("lang", "voice"):
            self._warn_ignored(element, "spoken with the request's voice and language")
        elif name not in _TRANSPARENT and name != "break":
            self._warnings.add("tag_dropped", f"<{name}> is not supported; its text is spoken, if it has any")

    def _close(self, name: str) -> None:
        place = self._place()
        element = self._elements.pop()
        empty = self._text.endswith("/>", 0, place) and place == self._end_of_tag(element.start)
        end = place if empty else self._text.find(">", place) + 1
        if name in _SILENT:
            self._silent -= 1
        elif self._replaced is element:
            self._replaced = None
            self._replace(element, end)
        elif not self._silent and self._replaced is None:
            if name == "break":
                self._break(element, end)
            elif name == "emphasis":
                self._emphasis(element, opening=False)
            elif name in _BORDERS:
                self.items.append(Border())
        if not self._elements:
            self.items.append(Border())
            self.end = end
            raise _Closed

    def _end_of_tag(self, place: int) -> int:
        """Return the end of the tag that begins at `place`; its attributes may contain `>`."""
        match = _TAG.match(self._text, place)
        return place if match is None else match.end()

    def _characters(self, text: str) -> None:
        place = self._place()
        self._pending = text, place

    def _add(self, text: str, start: int, end: int) -> None:
        """Add text of the document; its characters there are [start, end)."""
        if self._silent:
            return
        if self._replaced is not None:
            self._replaced.text.append(text)
            return
        # A line end of a document is white space. References such as &amp; are longer than their character.
        self.items.append(Text(regex.sub(r"[\r\n\t]", " ", text), start, end, self._elements[-1].style))

    def _replace(self, element: _Element, end: int) -> None:
        inner = " ".join("".join(element.text).split())
        spoken = self._spoken_instead(element, inner)
        if spoken:
            self.items.append(Text(spoken, element.start, end, element.style))

    def _spoken_instead(self, element: _Element, inner: str) -> str:
        get = element.attributes.get
        if element.name == "sub":
            return get("alias", "").strip() or inner
        if element.name == "phoneme":
            return self._pronouncer.phoneme(get("ph", ""), get("alphabet", "ipa"), inner, self._warnings)
        kind = get("interpret-as", get("type", ""))
        before = self.items[-1].text if self.items and isinstance(self.items[-1], Text) else ""
        read = say_as.read(inner, kind, get("format", ""), self._language_of(element, before))
        if read is None:
            self._warnings.add(
                "attribute_ignored", f"<say-as interpret-as={kind!r}> is not supported; the text is read as usual"
            )
            return inner
        return read.removeprefix("第") if before.endswith("第") else read

    def _language_of(self, element: _Element, before: str) -> str:
        """Return the language in which the sentence of an element will be read, without that of its letters."""
        language = element.language.partition("-")[0].lower()
        if not language:
            return "zh" if language_of(self._text.partition(CLOSE)[0]) == "zh" else ""
        return "zh" if language not in HAN_LANGUAGES and language_of(before) == "zh" else language

    def _break(self, element: _Element, end: int) -> None:
        time, strength = element.attributes.get("time"), element.attributes.get("strength", "medium")
        seconds = values.STRENGTHS.get(strength.strip().lower()) if time is None else values.seconds(time)
        if seconds is None:
            self._warnings.add(
                "attribute_ignored", "<break> needs a time such as 500ms or 1.5s, or a strength; it was left out"
            )
        elif seconds > 0:
            self.items.append(pause(seconds, element.start, end, self._warnings))

    def _prosody(self, element: _Element) -> Style:
        style = element.style
        for name, value in element.attributes.items():
            factor = {"rate": values.rate, "volume": values.gain}.get(name, lambda _: None)(value)
            if factor is None:
                if name not in ("rate", "volume") or value.strip():
                    self._warnings.add(
                        "attribute_ignored", f"<prosody {name}={value!r}> is not supported and has no effect"
                    )
            elif name == "rate":
                style = replace(style, speed=min(max(style.speed * factor, values.SLOWEST), values.FASTEST))
            else:
                style = replace(style, gain=min(style.gain * factor, values.LARGEST_GAIN))
        return style

    def _emphasis(self, element: _Element, *, opening: bool) -> None:
        if element.attributes.get("level", "moderate").strip().lower() in ("reduced", "none"):
            return
        mark = self._pronouncer.emphasis(opening=opening, warnings=self._warnings)
        if mark:
            place = self._counted[1]
            self.items.append(Text(mark, place, place, element.style))

    def _warn_ignored(self, element: _Element, how: str) -> None:
        self._warnings.add("tag_dropped", f"<{element.name}> has no effect; its text is {how}")
