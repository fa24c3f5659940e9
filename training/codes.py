"""What the stage codes makes of each utterance, and training of flow and language model reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Encoding:
    """One way to write an utterance's text in text tokens.

    ids int64 [n]; spans int64 [words, 2]: the text tokens [first, last) of each word
    """

    ids: I64
    spans: I64


@dataclass(frozen=True)
class Codes:
    """Of all utterances of the store, in its order.

    tokens      speech tokens of each; speakers float32 [utterances, 192]
    encodings   of each utterance; the first is the plain one, the others split words more finely
    """

    tokens: list[I64]
    speakers: NDArray[np.float32]
    encodings: list[list[Encoding]]

    def __len__(self) -> int:
        return len(self.tokens)


def save_codes(path: Path, codes: Codes, source: str) -> None:
    """Write the codes; `source` names what they were made from."""
    part = path.with_name(path.name + ".part.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = [encoding for several in codes.encodings for encoding in several]
    np.savez(
        part,
        source=np.array(source),
        tokens=_joined(codes.tokens),
        token_ends=_ends(codes.tokens),
        speakers=codes.speakers,
        counts=np.array([len(several) for several in codes.encodings]),
        text=_joined([encoding.ids for encoding in flat]),
        text_ends=_ends([encoding.ids for encoding in flat]),
        spans=np.concatenate([encoding.spans for encoding in flat]),
        span_ends=_ends([encoding.spans for encoding in flat]),
    )
    os.replace(part, path)


def source_of(path: Path) -> str:
    """What existing codes were made from; empty if there are none."""
    if not path.is_file():
        return ""
    with np.load(path) as data:
        return str(data["source"])


def load_codes(path: Path) -> Codes:
    """Read what `save_codes` wrote."""
    with np.load(path) as data:
        tokens = _split(data["tokens"], data["token_ends"])
        texts, spans = _split(data["text"], data["text_ends"]), _split(data["spans"], data["span_ends"])
        counts, speakers = data["counts"].tolist(), data["speakers"]
    flat = iter(Encoding(ids, words) for ids, words in zip(texts, spans, strict=True))
    return Codes(tokens, speakers, [[next(flat) for _ in range(count)] for count in counts])


def _joined(rows: list[I64]) -> I64:
    return np.concatenate(rows).astype(np.int64)


def _ends(rows: list[I64]) -> I64:
    return np.cumsum([len(row) for row in rows]).astype(np.int64)


def _split(joined: I64, ends: I64) -> list[I64]:
    return [np.asarray(row) for row in np.split(joined, ends[:-1])]
