"""Text to ids: special tokens, encodings, splitting, number spelling, blanks, punctuation (spec section 2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from services.common.checkpoint.model_dir import SplitConfig
from services.encode.text.normalise import Normaliser, drop_blanks, only_punctuation, spell_digits
from services.encode.text.split import split_text
from services.encode.text.tokenizer import TextTokenizer
from tests.parity.golden import Golden
from tests.parity.registry import check
from tests.parity.report import Row, Verdict, same

_FILE = "text_frontend.json"
_SECTIONS = {"special_ids", "ids", "encode", "split", "spell", "blank", "only_punct"}


@check(_FILE)
def text(golden: Golden) -> Iterator[Row]:
    golden.require(_FILE)
    data: dict[str, Any] = json.loads((golden.path / _FILE).read_text(encoding="utf-8"))
    tokenizer = TextTokenizer(golden.model)
    for section in ("special_ids", "ids"):
        if section in data:
            actual = {token: tokenizer.token_id(token) for token in data[section]}
            yield same(f"{_FILE}: {section}", actual, data[section])
    for written, ids in data.get("encode", {}).items():
        yield same(f"{_FILE}: encode {_short(written)}", tokenizer.encode(written), ids)
    for case in data.get("split", ()):
        pieces = split_text(case["text"], case["lang"], SplitConfig(), lambda piece: len(tokenizer.encode(piece)))
        yield same(f"{_FILE}: split {_short(case['text'])}", pieces, case["utts"])
    for written, words in data.get("spell", {}).items():
        yield same(f"{_FILE}: spell {_short(written)}", spell_digits(written), words)
        whole = Normaliser("upstream")(written, "en")
        yield same(f"{_FILE}: spell {_short(written)} by the normaliser", whole, words)
    for written, kept in data.get("blank", {}).items():
        yield same(f"{_FILE}: blank {_short(written)}", drop_blanks(written), kept)
    for written, verdict in data.get("only_punct", {}).items():
        yield same(f"{_FILE}: only_punct {_short(written)}", only_punctuation(written), verdict)
    for section in data.keys() - _SECTIONS:
        yield Row(f"{_FILE}: {section}", Verdict.SKIPPED, note="no check reads this section")


def _short(written: str) -> str:
    return repr(written if len(written) <= 24 else written[:23] + "…")
