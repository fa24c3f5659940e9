"""The facts of the model families, and that they stand in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.common.checkpoint.model_dir import ModelDirError, open_model_dir
from services.common.families import COSYVOICE2, COSYVOICE3, FAMILIES, family_named, family_of

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
PREAMBLE = "You are a helpful assistant.<|endofprompt|>"


def test_a_directory_names_its_family_by_its_yaml() -> None:
    for family in FAMILIES:
        folder = DATA / f"{family.name}-mini"
        assert family_of(folder) is family is family_named(family.name) is open_model_dir(folder).family
        assert all((folder / name).is_file() for name in family.required)
    assert family_of(DATA) is None


def test_special_ids() -> None:
    two, three = (open_model_dir(DATA / f"{family.name}-mini").llm for family in (COSYVOICE2, COSYVOICE3))
    assert (two.eos, two.fill, three.eos, three.fill) == (6561, 6563, 6562, 6564)
    assert (len(COSYVOICE2.text.special_tokens), len(COSYVOICE3.text.special_tokens)) == (19, 280)
    assert COSYVOICE3.speech.silent == {1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323}
    assert (COSYVOICE3.speech.longest_silence, COSYVOICE2.speech.silent) == (5, frozenset())


def test_how_prompts_are_laid_out() -> None:
    """Zero-shot, instructed and cross-lingual (spec sections 3.6 and 9)."""
    two, three = COSYVOICE2.text, COSYVOICE3.text
    assert two.transcript("hello") == "hello"
    assert three.transcript("hello") == f"{PREAMBLE}hello"
    assert three.transcript("Be kind.<|endofprompt|>hello") == "Be kind.<|endofprompt|>hello"
    assert two.instruction("whisper") == "whisper<|endofprompt|>"
    assert three.instruction("whisper") == "You are a helpful assistant. whisper<|endofprompt|>"
    assert (two.instruction(""), three.instruction("")) == ("", PREAMBLE)
    assert three.instruction("whisper<|endofprompt|>") == "whisper<|endofprompt|>"


def test_no_other_module_compares_names_of_families() -> None:
    """Everything but the families' own package, the command line's examples and the APIs of these products."""
    names = "|".join(family.name for family in FAMILIES)
    literal = re.compile(rf"""["']({names})["']""")
    places = [path for folder in ("services", "gateway", "cli") for path in (ROOT / folder).rglob("*.py")]
    named = {str(path.relative_to(ROOT)) for path in places if literal.search(path.read_text(encoding="utf-8"))}
    assert named == {f"services/common/families/{family.name}.py" for family in FAMILIES}


@pytest.mark.parametrize(
    ("family", "line", "replacement", "words"),
    [
        ("cosyvoice3", "    conv_pre_look_right: 4\n", "", "hift.conv_pre_look_right is missing"),
        ("cosyvoice2", "    nsf_sigma: 0.003\n", "", "hift.nsf_sigma is missing"),
        ("cosyvoice2", "    audio_limit: 0.99\n", "    audio_limit: 0.99\n    mixing: 3\n", "hift.mixing: not impl"),
        ("cosyvoice3", "upsample_rates: [8, 5, 3]", "upsample_rates: [8, 5]", "upsample_kernel_sizes has 3 entries"),
        ("cosyvoice2", "upsample_rates: [8, 5, 3]", "upsample_rates: [8, 5, 2]", "give 320 samples per frame"),
        ("cosyvoice2", "base_channels: 32", "base_channels: 36", "base_channels is 36, expected a multiple of 8"),
        ("cosyvoice2", "num_class: 1", "num_class: 2", "hift.f0_predictor.num_class is 2"),
        ("cosyvoice3", "sampling_rate: !ref <sample_rate>\n    nsf", "sampling_rate: 16000\n    nsf", "is 16000"),
        ("cosyvoice3", "resblock_dilation_sizes: [[1, 3, 5], ", "resblock_dilation_sizes: [3, ", "list of whole numb"),
    ],
)
def test_the_vocoders_configuration_is_complete_or_refused(
    family: str, line: str, replacement: str, words: str, tmp_path: Path
) -> None:
    for file in (DATA / f"{family}-mini").iterdir():
        (tmp_path / file.name).symlink_to(file)
    yaml = tmp_path / f"{family}.yaml"
    text = yaml.read_text(encoding="utf-8")
    assert line in text
    yaml.unlink()
    yaml.write_text(text.replace(line, replacement, 1), encoding="utf-8")
    with pytest.raises(ModelDirError, match=re.escape(f"{yaml}: ")) as caught:
        open_model_dir(tmp_path)
    assert words in str(caught.value)
