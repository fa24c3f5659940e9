"""Runs of silence in CosyVoice3: at most five ids in a row are spoken; the model sees all (spec section 4.7)."""

from __future__ import annotations

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.llm.engine.layout import Prompt
from services.llm.engine.sequence import Request, Sequence
from tests.unit.llm.llm_support import ROOT

SILENT = [1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323]


def spoken(model: ModelDir, tokens: list[int]) -> tuple[list[int], Sequence]:
    sequence = Sequence(Request(tuple(range(10)), Prompt()), model, 4096, arrival=0)
    return [id_ for token in tokens for id_ in sequence.accept(token).ids], sequence


def test_the_sixth_silent_id_in_a_row_is_dropped() -> None:
    third = open_model_dir(ROOT / "tests" / "data" / "cosyvoice3-mini")
    heard, sequence = spoken(third, [7, *SILENT, 8, *SILENT[5:], 9])
    assert heard == [7, *SILENT[:5], 8, *SILENT[5:10], 9]
    assert sequence.decoded == [7, *SILENT, 8, *SILENT[5:], 9]
    assert len(sequence.layout.inputs) == 12 + len(sequence.decoded)
    assert spoken(third, [1] * 12 + [3] + [1] * 12)[0] == [1] * 5 + [3] + [1] * 5


def test_ids_that_are_not_spoken_use_nothing_of_the_token_budget() -> None:
    third = open_model_dir(ROOT / "tests" / "data" / "cosyvoice3-mini")
    request = Request(tuple(range(100)), Prompt(), max_tokens=20)
    sequence = Sequence(request, third, 4096, arrival=0)
    for _ in range(
        60
    ):  # of a pause of 2.4 s, five ids are spoken: a budget of raw ids would hold the sequence for ever
        assert sequence.runnable
        sequence.accept(1)
    assert sequence.spoken == 5
    for number in range(15):
        assert sequence.runnable
        assert sequence.max_steps <= 15 - number
        sequence.accept(7)
    assert not sequence.runnable


def test_the_second_family_has_no_silent_ids() -> None:
    second = open_model_dir(ROOT / "tests" / "data" / "cosyvoice2-mini")
    assert spoken(second, SILENT * 2)[0] == SILENT * 2
