"""`light-tts calibrate-alignment` writes heads into a directory's card and leaves the rest of it as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.model.calibrate import declare, main
from services.common.checkpoint.model_dir import AlignmentHead, ModelDirError, open_model_dir

MINI = Path(__file__).parents[2] / "data" / "cosyvoice2-mini"
HEADS = (AlignmentHead(1, 0, 0.75), AlignmentHead(0, 2, 0.7))
CARD = "# The mini checkpoint.\nname: mini\nalignment: [{layer: 0, head: 0, score: 1}]\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "mini"))


def test_heads_replace_those_before_and_keep_the_rest(directory: Path) -> None:
    card = directory / "light-tts.yaml"
    before = card.read_text(encoding="utf-8") if card.is_file() else ""
    for heads in (HEADS, HEADS[:1], HEADS):
        declare(card, heads)
        assert open_model_dir(directory).card.alignment == heads
    assert card.read_text(encoding="utf-8").startswith(before)
    declare(card, ())
    assert (card.read_text(encoding="utf-8") if card.is_file() else "") == before
    assert open_model_dir(directory).card.alignment == ()


def test_a_list_on_one_line_and_keys_after_it(tmp_path: Path) -> None:
    card = tmp_path / "light-tts.yaml"
    card.write_text(CARD + "languages: [en]\n", encoding="utf-8")
    declare(card, HEADS)
    written = card.read_text(encoding="utf-8")
    assert written.startswith("# The mini checkpoint.\nname: mini\nlanguages: [en]\n")
    assert written.count("alignment:") == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{layer: 99, head: 0, score: 1}", "head 0 of layer 99"),
        ("{layer: 0, head: 99, score: 1}", "head 99 of layer 0"),
        ("{layer: 0, score: 1}", "malformed"),
        ("{layer: x, head: 0, score: 1}", "malformed"),
    ],
)
def test_heads_that_the_model_lacks_are_refused(directory: Path, entry: str, message: str) -> None:
    with (directory / "light-tts.yaml").open("a", encoding="utf-8") as card:
        card.write(f"\nalignment: [{entry}]\n")
    with pytest.raises(ModelDirError, match=message):
        open_model_dir(directory)


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing")]) == 1
    assert "missing" in capsys.readouterr().err


def test_a_list_at_the_end_of_a_card_without_a_line_break(directory: Path) -> None:
    card = directory / "light-tts.yaml"
    card.write_text("name: mini\nalignment:\n  - {layer: 0, head: 0, score: 1}", encoding="utf-8")
    declare(card, HEADS)
    assert open_model_dir(directory).card.alignment == HEADS
    assert card.read_text(encoding="utf-8").startswith("name: mini\n# Heads")
