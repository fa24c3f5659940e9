"""Checks a model directory for `light-tts doctor`: its family, missing files, weights and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from cli.finding import Finding
from services.common.checkpoint.model_dir import CARD, ModelDir, ModelDirError, Part, open_model_dir
from services.common.families import FAMILIES, family_of
from services.common.families.family import ModelFamily

# What each file is for, as shown to a user who lacks it (spec section 1).
_TOKENIZER = "CosyVoice-BlankEN/"
_ROLES = {
    "llm.pt": "the llm service's weights",
    "flow.pt": "the decode service's flow",
    "hift.pt": "the decode service's vocoder",
    "campplus.onnx": "the speaker encoder: no voice can be extracted without it",
    _TOKENIZER + "config.json": "the language model's sizes",
    _TOKENIZER + "vocab.json": "the text tokenizer",
    _TOKENIZER + "merges.txt": "the text tokenizer",
}
PARTS: tuple[Part, ...] = ("llm", "flow", "hift")
_SPEECH_TOKENIZER = "the speech tokenizer: no voice can be extracted without it"
_USED = {*_ROLES, CARD, "config.json", "README.md", "spk2info.pt", "style_config.json"}
_LARGE = 50e6
"""Unused files above this size, in bytes, are listed."""


def examine_checkpoint(path: Path) -> Iterator[Finding]:
    """Identify the directory, name every missing file, read every weight and load every graph."""
    family = family_of(path)
    if family is None:
        yield _no_checkpoint(path)
        return
    lacking = list(_lacking(path, family))
    for name in lacking:
        remedy = f"`light-tts fetch {family.name} {path}` downloads the missing files of an official checkpoint"
        yield Finding("fail", f"model {path}: {name} is missing ({_ROLES.get(name, _SPEECH_TOKENIZER)})", remedy)
    try:
        model = open_model_dir(path)
    except ModelDirError as error:
        if not lacking:
            yield Finding("fail", f"model: {error}", "repair the named file or fetch the checkpoint again")
        return
    yield _summary(model)
    yield from _other_files(model)
    yield from _check_weights(model)
    for graph in (model.speech_tokenizer, model.speaker_encoder):
        yield _check_graph(graph)
    yield from _check_speakers(model)


def _no_checkpoint(path: Path) -> Finding:
    remedy = "the embedded voice is models/tiny; `light-tts fetch cosyvoice2 DIR` downloads the official checkpoint"
    if not path.is_dir():
        return Finding("fail", f"model: {path} does not exist", remedy)
    if (path / "cosyvoice.yaml").is_file():
        return Finding(
            "fail", f"model: {path} is a checkpoint of the first CosyVoice, which light-tts does not support", remedy
        )
    inside = next((child for child in sorted(path.iterdir()) if child.is_dir() and family_of(child)), None)
    if inside is not None:
        return Finding("fail", f"model: {path} is not a model directory, but {inside} is", "use that one")
    names = " nor ".join(family.yaml for family in FAMILIES)
    return Finding("fail", f"model: {path} is not a model directory: it holds neither {names}", remedy)


def _lacking(path: Path, family: ModelFamily) -> Iterator[str]:
    vocabulary = (_TOKENIZER + "vocab.json", _TOKENIZER + "merges.txt")
    whole_tokenizer = (path / _TOKENIZER / "tokenizer.json").is_file()
    for name in (*family.required, *(() if whole_tokenizer else vocabulary)):
        if not (path / name).is_file():
            yield name


def _summary(model: ModelDir) -> Finding:
    voices = ", ".join(voice.name for voice in model.card.voices) or "none"
    return Finding(
        "ok",
        f"model {model.path}: {model.card.name}, {model.family.name}, {model.sample_rate} Hz, "
        f"languages {', '.join(model.card.languages)}, bundled voices {voices}",
    )


def _other_files(model: ModelDir) -> Iterator[Finding]:
    """Large files besides the needed ones: other weights of the llm, known exports, and what is not known."""
    family, root = model.family, model.path
    for variant in family.llm_variants:
        if (root / family.llm_file(variant)).is_file():
            yield Finding("ok", f"{family.llm_file(variant)}: LIGHTTTS_LLM_WEIGHTS={variant} selects these weights")
    used = {*_USED, *family.required, family.yaml, *map(family.llm_file, family.llm_variants)}
    large = [file for file in sorted(root.rglob("*")) if file.is_file() and file.stat().st_size > _LARGE]
    others = {str(file.relative_to(root)): file.stat().st_size for file in large if ".cache" not in file.parts}
    others = {name: size for name, size in others.items() if name not in used}
    exports = [name for name in others if any(fnmatch(name, pattern) for pattern in family.unused)]
    unknown = [name for name in others if name not in exports]
    for names, words in ((exports, "unused by light-tts and safe to remove"), (unknown, "not read by light-tts")):
        if names:
            total = sum(others[name] for name in names) / 1e9
            yield Finding("ok", f"{words}, {total:.1f} GB: {', '.join(names)}")


def _check_weights(model: ModelDir) -> Iterator[Finding]:
    """Read each file of weights and load it into the network that the configuration describes."""
    try:
        from cli.model.networks import load_network
        from services.common.checkpoint.weights import read_weights
    except ImportError as error:
        yield Finding("fail", f"cannot read the weights without torch ({error})", "run `make setup`")
        return
    variants = [model.path / model.family.llm_file(variant) for variant in model.family.llm_variants]
    files = [(model.weights_file(part), part) for part in PARTS] + [(file, PARTS[0]) for file in variants]
    for file, part in files:
        if not file.is_file():
            continue
        try:
            weights = read_weights(file)
        except ModelDirError as error:
            yield Finding("fail", f"model: {error}", "replace the file; the checkpoint is damaged")
            continue
        count, parameters = len(weights), sum(value.numel() for value in weights.values())
        try:
            load_network(model, part, file, weights)
        except (ModelDirError, ValueError, RuntimeError) as error:
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            remedy = f"take {file.name} and {model.family.yaml} from the same checkpoint"
            yield Finding("fail", f"{file.name} cannot be used: {first_line}", remedy)
            continue
        yield Finding("ok", f"{file.name}: {count} tensors, {parameters / 1e6:.2f} M parameters, as configured")


def _check_graph(path: Path) -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        return Finding("fail", f"onnxruntime does not import ({error})", "run `make setup`")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its own error would appear in addition to ours
    open_session: Callable[..., object] = onnxruntime.InferenceSession
    try:
        open_session(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises its own types without a common base
        return Finding("fail", f"{path.name} is not a readable ONNX graph ({error})", "fetch the checkpoint again")
    return Finding("ok", f"{path.name}: readable")


def _check_speakers(model: ModelDir) -> Iterator[Finding]:
    from services.encode.voice.speakers import (  # imported here because it needs torch, which _check_weights has found
        FILE,
        read_speakers,
    )

    if not (model.path / FILE).is_file():
        return
    try:
        speakers = read_speakers(model.path / FILE, model)
    except ModelDirError as error:
        yield Finding("fail", f"model: {error}", "remove the file, or register its speakers again")
        return
    yield Finding("ok", f"{FILE}: {len(speakers)} registered speakers: {', '.join(speakers)}")
