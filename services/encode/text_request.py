"""Checks the options with which a client's text is read, and shows how it was read."""

from __future__ import annotations

import threading

import regex
from cachetools import LRUCache

from lighttts.v1 import encode_pb2, lexicon_pb2, text_pb2
from services.common.errors import InvalidInput, quoted
from services.encode.text.frontend import TextFrontend
from services.encode.text.pieces import Piece, TextRequest
from services.encode.text.pronunciation.lexicon import Entry, Lexicon
from services.encode.text.pronunciation.phones import Alphabet

MAX_ENTRIES = 2000
"""Entries of one request: those of the caller's lexicon and of the request itself."""

LEXICONS_IN_MEMORY = 64

_LANGUAGE = regex.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,6}")
_ALPHABETS: dict[int, Alphabet] = {
    lexicon_pb2.PHONETIC_ALPHABET_UNSPECIFIED: "",
    lexicon_pb2.PHONETIC_ALPHABET_IPA: "ipa",
    lexicon_pb2.PHONETIC_ALPHABET_ARPABET: "arpabet",
    lexicon_pb2.PHONETIC_ALPHABET_PINYIN: "pinyin",
}
_SAME_RULES = {"cmn": "zh", "yue": "yue", "iw": "he", "nb": "no", "nn": "no", "in": "id"}


class TextRequests:
    """Checks the requests of one checkpoint; keeps the lexicons of the last callers, which each request repeats."""

    def __init__(self, frontend: TextFrontend) -> None:
        self._frontend = frontend
        self._layered: LRUCache[bytes, tuple[Lexicon, Lexicon]] = LRUCache(LEXICONS_IN_MEMORY)
        self._lock = threading.Lock()

    def checked(self, start: encode_pb2.EncodeTextStart, lexicon: Lexicon) -> TextRequest:
        """Return the checked options of a call. `lexicon`: of the deployment. Raises InvalidInput."""
        return TextRequest(
            language=primary_subtag(start.language),
            lexicon=self._lexicon(start, lexicon),
            timbre_only=start.HasField("instruct_text"),
            words=start.words,
        )

    def _lexicon(self, start: encode_pb2.EncodeTextStart, base: Lexicon) -> Lexicon:
        """Return the lexicon of a call over that of the deployment."""
        if not start.lexicon:
            return base
        key = encode_pb2.EncodeTextStart(lexicon=start.lexicon).SerializeToString(deterministic=True)
        with self._lock:
            known = self._layered.get(key)
            if known is not None and known[0] is base:
                return known[1]
            lexicon = base.with_entries(_entries(start, self._frontend))
            self._layered[key] = base, lexicon
            return lexicon


def primary_subtag(language: str) -> str:
    """Return the language of a BCP-47 tag (`en-US` gives `en`), an empty string for none. Raises InvalidInput."""
    if not language:
        return ""
    if _LANGUAGE.fullmatch(language) is None:
        raise InvalidInput(
            f"language is {quoted(language)}; send a tag of BCP-47 such as en, en-US or zh-CN", field="language"
        )
    primary = regex.split("[-_]", language)[0].lower()
    return _SAME_RULES.get(primary, primary)


def _entries(start: encode_pb2.EncodeTextStart, frontend: TextFrontend) -> list[Entry]:
    if len(start.lexicon) > MAX_ENTRIES:
        raise InvalidInput(
            f"the lexicon has {len(start.lexicon)} entries; at most {MAX_ENTRIES} are allowed", field="lexicon"
        )
    entries = []
    for sent in start.lexicon:
        alphabet = _ALPHABETS.get(sent.alphabet)
        if alphabet is None:
            raise InvalidInput("unknown alphabet; use IPA, ARPABET, PINYIN or none", field="lexicon.alphabet")
        entry = Entry(sent.phrase, sent.pronunciation, alphabet)
        problem = entry.problem(frontend.pronouncer)
        if problem is not None:
            field, reason = problem
            raise InvalidInput(f"the lexicon entry for {quoted(sent.phrase)}: {reason}", field=f"lexicon.{field}")
        entries.append(entry)
    return entries


def previewed(frontend: TextFrontend, piece: Piece) -> text_pb2.PreviewedText:
    """Return what a piece shows to the author of the text."""
    shown = text_pb2.PreviewedText(
        start=piece.start,
        end=piece.end,
        reading=piece.text,
        ids=piece.ids,
        tokens=frontend.tokenizer.pieces(piece.ids),
        silence_seconds=piece.silence,
    )
    if piece.style.speed != 1:
        shown.speed = piece.style.speed
    if piece.style.gain != 1:
        shown.gain = piece.style.gain
    return shown
