"""Encodes text as token ids: the directory's byte-level BPE and its family's special tokens (spec section 2.4)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from services.common.checkpoint.model_dir import ModelDir, ModelDirError
from services.common.errors import InvalidInput
from services.encode.text import special_tokens

# Qwen2's division into words before merging: contractions, words with one leading mark, single digits, punctuation
# with its line ends, white space.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# Text of these characters is cut at its blanks, which begin words of Qwen2, and the ids of each part are kept. Brackets
# may begin a special token. The characters are their own NFC.
_PLAIN = re.compile(r"[ !-;=>?-Z\\-~\u4e00-\u9fff，。！？；：、“”‘’《》（）…]*")
_LAST_MARKS = frozenset(".,;:!?")
_NEXT_WORD = re.compile(r" \S")
_LONGEST_PART = 24
_PARTS_KEPT = 25_000


class _Parts(dict[str, tuple[int, ...]]):
    """The ids of parts of texts, each after `blank`, kept up to a bound. Two threads may make the same entry."""

    def __init__(self, tokenizer: Tokenizer, blank: str) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._blank = blank

    def __missing__(self, part: str) -> tuple[int, ...]:
        ids = tuple(self._tokenizer.encode(self._blank + part, add_special_tokens=False).ids)
        if len(self) >= _PARTS_KEPT:
            self.clear()
        if len(part) <= _LONGEST_PART:
            self[part] = ids
        return ids


class TextTokenizer:
    """Encodes text as the ids of a model directory's llm. Thread-safe."""

    def __init__(self, model: ModelDir) -> None:
        """Raises ModelDirError if the directory's tokenizer files are missing or damaged."""
        self._tokenizer = _load(model.tokenizer_dir)
        specials = model.family.text.special_tokens
        _add_specials(self._tokenizer, (special_tokens.END_OF_TEXT, *specials))
        self._specials = frozenset(specials)
        self._has_words = _has_qwen2_words(self._tokenizer)
        self._first_parts, self._parts = _Parts(self._tokenizer, ""), _Parts(self._tokenizer, " ")
        self._rows = model.llm.text_vocab

    def encode(self, text: str, *, field: str = "text") -> list[int]:
        """Return the ids of `text`, without any ids before or after.

        Raises InvalidInput if the model has no embedding for a part of the text (a special token of its family on which
        this checkpoint was not trained).
        """
        if self._has_words and "  " not in text and _PLAIN.fullmatch(text) is not None:
            first, *others = text.split(" ")
            ids = [*self._first_parts[first], *chain.from_iterable(map(self._parts.__getitem__, others))]
        else:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids or max(ids) < self._rows:
            return ids
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = {token for token, id_ in zip(encoding.tokens, encoding.ids, strict=True) if id_ >= self._rows}
        names = ", ".join(sorted(unknown))
        raise InvalidInput(f"{field} has {names}, which this model does not support; remove it", field=field)

    def joins(self, first: str, second: str) -> bool:
        """Return whether the ids of both texts together are certainly the ids of each, one after the other."""
        return self._has_words and first[-1:] in _LAST_MARKS and _NEXT_WORD.match(second) is not None

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the characters [begin, stop) of `text` that each of its ids stands for."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each id; a part of a character gives a replacement character."""
        return [str(self._tokenizer.decode([id_], skip_special_tokens=False)) for id_ in ids]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its exact spelling, None if the vocabulary lacks it."""
        id_: int | None = self._tokenizer.token_to_id(token)
        return id_

    def has_embedding(self, token: str) -> bool:
        """Return whether the checkpoint has an embedding for a token by its exact spelling."""
        id_ = self.token_id(token)
        return id_ is not None and id_ < self._rows

    @property
    def specials(self) -> frozenset[str]:
        """The special tokens that a text may contain, such as `[laughter]` or `<strong>`."""
        return self._specials


def _load(directory: Path) -> Tokenizer:
    whole = directory / "tokenizer.json"
    try:
        if whole.is_file():
            return Tokenizer.from_file(str(whole))
        return _from_vocabulary(directory)
    except ModelDirError:
        raise
    except Exception as error:  # the library raises Exception itself for a damaged file
        raise ModelDirError(f"the tokenizer in {directory} cannot be read ({error}); fetch it again") from error


def _from_vocabulary(directory: Path) -> Tokenizer:
    """Build Qwen2's tokenizer from `vocab.json` and `merges.txt`, the files of the official checkpoints."""
    missing = [name for name in ("vocab.json", "merges.txt") if not (directory / name).is_file()]
    if missing:
        raise ModelDirError(f"{directory} lacks {', '.join(missing)} (or a tokenizer.json); fetch the checkpoint again")
    bpe = models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    config_file = directory / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    added = sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))
    _add_specials(tokenizer, tuple(str(token["content"]) for _, token in added))
    return tokenizer


def _has_qwen2_words(tokenizer: Tokenizer) -> bool:
    """Return whether Qwen2's words are merged separately, and the other tokens have brackets and no blanks."""
    parts = json.loads(tokenizer.to_str())
    division = json.dumps(parts["pre_tokenizer"])
    added = [token["content"] for token in parts["added_tokens"]]
    return (
        json.dumps(_QWEN2_WORDS) in division
        and parts["normalizer"] in (None, {"type": "NFC"})
        and all(("<" in token or "[" in token) and " " not in token for token in added)
    )


def _add_specials(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> None:
    """Append the new tokens in order; existing ones become special and keep their ids."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
