"""Model directories: valid ones open, others are refused with a clear error, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from services.common.checkpoint.flow_config import ConformerConfig
from services.common.checkpoint.hyperyaml import read_hyper_yaml
from services.common.checkpoint.model_dir import ModelDirError, SplitConfig, open_model_dir

ROOT = Path(__file__).parents[3]
MINI = ROOT / "tests" / "data" / "cosyvoice2-mini"
TINY = ROOT / "models" / "tiny"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the tiny model whose text files may be rewritten."""
    copy = tmp_path / "tiny"
    shutil.copytree(TINY, copy, copy_function=lambda source, to: _copy(Path(source), Path(to)))
    return copy


def _copy(source: Path, to: Path) -> None:
    if source.suffix in (".yaml", ".json", ".txt"):
        shutil.copy(source, to)
    else:
        os.link(source, to)


def test_the_embedded_voice_opens() -> None:
    model = open_model_dir(TINY)
    assert (model.family.name, model.sample_rate, model.token_rate) == ("cosyvoice2", 24000, 25)
    assert (model.llm.hidden_size, model.llm.num_layers, model.llm.speech_tokens, model.llm.text_vocab) == (
        256,
        5,
        729,
        1024,
    )
    assert (model.llm.eos, model.llm.fill, model.llm.mix_ratio) == (729, 731, (5, 15))
    assert (model.sampling.top_p, model.sampling.top_k, model.sampling.tau_r) == (0.4, 25, 1.0)
    assert isinstance(model.flow.front, ConformerConfig)
    assert (model.flow.front.width, model.flow.lookahead_tokens, model.flow.chunk_tokens) == (128, 3, 25)
    assert (model.vocoder.nb_harmonics, model.vocoder.hop) == (32, 480)
    assert [voice.name for voice in model.card.voices] == ["anna", "hugo", "slt", "rms"]
    assert len({voice.audio for voice in model.card.voices}) == 2
    assert model.card.split == SplitConfig(max_length=1, min_length=0, merge_length=0, longest=29)
    assert model.card.text_streaming == "interleaved"


def test_an_official_directory_opens_without_a_card() -> None:
    model = open_model_dir(str(MINI))
    shapes = json.loads((MINI / "config.json").read_text())
    assert model.llm.hidden_size == json.loads((MINI / "CosyVoice-BlankEN" / "config.json").read_text())["hidden_size"]
    assert shapes
    assert model.card.name == "cosyvoice2-mini"
    assert model.card.text_streaming == "interleaved"
    assert model.card.split == SplitConfig()
    assert model.weights_file("flow").is_file()


@pytest.mark.parametrize("missing", ["llm.pt", "campplus.onnx", "CosyVoice-BlankEN/config.json"])
def test_missing_files_are_named(tiny: Path, missing: str) -> None:
    (tiny / missing).unlink()
    (tiny / "hift.pt").unlink()
    with pytest.raises(ModelDirError, match=rf"lacks .*{missing}") as caught:
        open_model_dir(tiny)
    assert "hift.pt" in str(caught.value)


def test_a_folder_that_is_no_model_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match="does not exist; set LIGHTTTS_MODEL_DIR"):
        open_model_dir(tmp_path / "none")
    with pytest.raises(ModelDirError, match=r"none of cosyvoice2\.yaml, cosyvoice3\.yaml"):
        open_model_dir(tmp_path)
    with pytest.raises(ModelDirError, match="does not exist"):
        open_model_dir(MINI / "llm.pt")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("cosyvoice2.yaml", "llm: [", "cosyvoice2.yaml is not valid YAML"),
        ("cosyvoice2.yaml", "- 1", "cosyvoice2.yaml is not a YAML mapping"),
        ("cosyvoice2.yaml", "sample_rate: 24000", r"cosyvoice2.yaml: missing or malformed node \(KeyError\('llm'\)\)"),
        ("cosyvoice2.yaml", "sample_rate: 24000\nllm: 3\nflow: {}\nhift: {}", "cosyvoice2.yaml: missing or malformed"),
        ("CosyVoice-BlankEN/config.json", '{"hidden_size": 25', "config.json is not readable JSON"),
        ("CosyVoice-BlankEN/config.json", "[]", "config.json is not a JSON object"),
        ("CosyVoice-BlankEN/config.json", "{}", "malformed node"),
        ("light-tts.yaml", "nmae: x", "light-tts.yaml: unknown keys nmae"),  # codespell:ignore
        ("light-tts.yaml", "text_streaming: words", "text_streaming must be 'interleaved' or 'sentence'"),
        ("light-tts.yaml", "languages: en", r"languages must be a list: \[en\]"),
        ("light-tts.yaml", "split: {shortest: 3}", "light-tts.yaml: missing or malformed entry"),
        ("light-tts.yaml", "voices: [{name: x}]", r"light-tts.yaml: missing or malformed entry \(KeyError"),
        (
            "light-tts.yaml",
            "voices: [{name: x, audio: a.wav, transcript: a.txt}]",
            "voice 'x' has a file that does not",
        ),
        ("light-tts.yaml", "voices: 3", "light-tts.yaml: missing or malformed entry"),
    ],
)
def test_an_error_names_the_file_and_the_cause(tiny: Path, file: str, content: str, words: str) -> None:
    (tiny / file).write_text(content)
    with pytest.raises(ModelDirError, match=words):
        open_model_dir(tiny)


def test_a_binary_file_in_place_of_yaml_is_refused(tiny: Path) -> None:
    (tiny / "cosyvoice2.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(ModelDirError, match="not valid YAML"):
        open_model_dir(tiny)


def test_tags_become_data_and_references_their_values(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        "width: 64\n"
        "half: !ref <width>\n"
        "product: !ref <width> * 3 * <half>\n"
        "net: !new:some.module.Class\n"
        "  size: !ref <width>\n"
        "  list: [!ref <half>, 2]\n"
        "function: !name:os.system\n"
        "applied: !apply:os.system [touch marker]\n"
    )
    assert read_hyper_yaml(path) == {
        "width": 64,
        "half": 64,
        "product": 64 * 3 * 64,
        "net": {"size": 64, "list": [64, 2]},
        "function": "",
        "applied": ["touch marker"],
    }


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!apply:os.system ['touch {marker}']",
        "!new:os.system ['touch {marker}']",
    ],
)
def test_nothing_is_executed(tmp_path: Path, tag: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.yaml"
    path.write_text(f"key: {tag.format(marker=marker)}")
    try:
        read_hyper_yaml(path)
    except ValueError as error:
        assert "not valid YAML" in str(error)  # noqa: PT017 - either is fine, as long as nothing runs
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: !ref <b>", "!ref <b> names a key that does not exist"),
        ("a: !ref <a>", "refers to itself"),
        ("a: !ref <b>\nb: {c: !ref <a>}", "refers to itself"),
        ("a: [1]\nb: !ref <a> * <a>", "multiplies values that are not numbers"),
        ("a: !ref nonsense", "nonsense"),
    ],
)
def test_references_that_cannot_be_resolved_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_hyper_yaml(path)
    assert str(path) in str(caught.value)
