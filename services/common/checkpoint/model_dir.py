"""A model directory in the official layout: the places of its files and the sizes of its networks.

Only this module reads a directory's configuration; all other code receives the frozen dataclasses below. Sizes come
from the directory's YAML and from the Qwen2 `config.json` (spec section 1), so a checkpoint of any width works. This
module imports neither torch nor a settings library: a gateway or a bare benchmark machine can use it.

A directory may also hold `light-tts.yaml`, our own card, for facts that the official files cannot express: languages,
splitter limits, whether the checkpoint was trained on interleaved text, its voices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from services.common.checkpoint.flow_config import FlowConfig, read_flow
from services.common.checkpoint.hyperyaml import read_hyper_yaml
from services.common.checkpoint.vocoder_config import VocoderConfig, read_vocoder
from services.common.checkpoint.yaml_nodes import NodeError
from services.common.families import COSYVOICE2, FAMILIES, family_of
from services.common.families.family import ModelFamily, SpeechIds

CARD = "light-tts.yaml"
Part = Literal["llm", "flow", "hift"]
"""A network, and the name of its file of weights."""


class ModelDirError(Exception):
    """A model directory is missing, incomplete or damaged; the message names the file and what to do."""


@dataclass(frozen=True)
class LlmConfig:
    """The speech language model: a Qwen2 decoder over text and speech-token embeddings (spec section 4)."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    text_vocab: int
    speech_tokens: int
    """V: ids 0..V-1 are speech tokens; the special ids follow."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mix_ratio: tuple[int, int] = (5, 15)
    """Text to speech tokens in interleaved (bistream) order."""
    special: SpeechIds = COSYVOICE2.speech

    @property
    def eos(self) -> int:
        return self.speech_tokens + self.special.eos

    @property
    def fill(self) -> int:
        return self.speech_tokens + self.special.fill


@dataclass(frozen=True)
class SamplingConfig:
    """The checkpoint's own sampling (spec section 4.5) and length rules (section 4.4)."""

    top_p: float = 0.8
    top_k: int = 25
    win_size: int = 10
    tau_r: float = 0.1
    min_token_text_ratio: float = 2.0
    max_token_text_ratio: float = 20.0


@dataclass(frozen=True)
class MelConfig:
    """The prompt mel that conditions the flow (spec section 3.4)."""

    sample_rate: int = 24000
    n_fft: int = 1920
    hop: int = 480
    window: int = 1920
    bins: int = 80
    fmin: float = 0.0
    fmax: float | None = 8000.0


@dataclass(frozen=True)
class SplitConfig:
    """Splitter limits (spec section 2.3): characters for Chinese, token ids otherwise."""

    max_length: int = 80
    min_length: int = 60
    merge_length: int = 20
    comma_split: bool = False
    longest: int = 0
    """Longest sentence that the checkpoint speaks reliably; a longer one is divided. 0: any length. Not of the spec."""


@dataclass(frozen=True)
class BundledVoice:
    """A prompt that ships inside the model directory."""

    name: str
    audio: Path
    transcript: str


@dataclass(frozen=True)
class AlignmentHead:
    """A head of the llm whose attention from speech to text follows the text as it is spoken."""

    layer: int
    head: int
    score: float
    """How well it does, 0 to 1; `light-tts calibrate-alignment` measures it."""


@dataclass(frozen=True)
class Card:
    """`light-tts.yaml`: facts about a checkpoint that the official files do not hold."""

    name: str
    description: str = ""
    languages: tuple[str, ...] = ("zh", "en", "ja", "ko")
    split: SplitConfig = SplitConfig()
    text_streaming: Literal["interleaved", "sentence"] = "interleaved"
    """`interleaved`: trained on mixed text and speech order (bistream); `sentence`: one sentence at a time."""
    voices: tuple[BundledVoice, ...] = ()
    alignment: tuple[AlignmentHead, ...] = ()
    """The heads from which the times of words follow; without any, only utterances have times."""


@dataclass(frozen=True)
class ModelDir:
    """An opened model directory. Paths are checked to exist; weights are read by `checkpoint.weights`."""

    path: Path
    family: ModelFamily
    sample_rate: int
    token_rate: int
    llm: LlmConfig
    sampling: SamplingConfig
    flow: FlowConfig
    vocoder: VocoderConfig
    mel: MelConfig
    card: Card
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """The YAML as plain data, references resolved."""

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "CosyVoice-BlankEN"

    @property
    def speech_tokenizer(self) -> Path:
        return self.path / self.family.speech_tokenizer

    @property
    def speaker_encoder(self) -> Path:
        return self.path / "campplus.onnx"

    def weights_file(self, part: Part) -> Path:
        return self.path / f"{part}.pt"


def open_model_dir(path: str | Path) -> ModelDir:
    """Read a model directory's configuration and check that the files that services need exist.

    Raises ModelDirError with all missing files, or with the YAML node that is missing, of the wrong type
    or not implemented.
    """
    root = Path(path)
    if not root.is_dir():
        raise ModelDirError(f"model directory {root} does not exist; set LIGHTTTS_MODEL_DIR to an existing one")
    family = family_of(root)
    if family is None:
        raise ModelDirError(f"{root} has none of {', '.join(f.yaml for f in FAMILIES)}: not a model directory")
    missing = [name for name in family.required if not (root / name).is_file()]
    if missing:
        raise ModelDirError(f"{root} lacks {', '.join(missing)}; fetch the checkpoint again")
    raw = _read_yaml(root / family.yaml)
    qwen = _read_json(root / "CosyVoice-BlankEN" / "config.json")
    card = _read_card(root)
    try:
        model = _build(root, family, raw, qwen, card)
    except NodeError as error:
        raise ModelDirError(f"{root / family.yaml}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelDirError(f"{root / family.yaml}: missing or malformed node ({error!r})") from error
    for head in card.alignment:
        if not (0 <= head.layer < model.llm.num_layers and 0 <= head.head < model.llm.num_heads):
            sizes = f"{model.llm.num_layers} layers of {model.llm.num_heads} heads"
            raise ModelDirError(
                f"{root / CARD}: alignment names head {head.head} of layer {head.layer}, but the llm has {sizes}; "
                "run `light-tts calibrate-alignment`"
            )
    return model


def _build(root: Path, family: ModelFamily, raw: Mapping[str, Any], qwen: Mapping[str, Any], card: Card) -> ModelDir:
    llm, mel = raw["llm"], _mel(raw, family)
    heads = int(qwen["num_attention_heads"])
    config = _read_json(root / "config.json") if (root / "config.json").is_file() else {}
    return ModelDir(
        path=root,
        family=family,
        sample_rate=int(raw["sample_rate"]),
        token_rate=int(raw.get("token_frame_rate", 25)),
        llm=LlmConfig(
            hidden_size=int(qwen["hidden_size"]),
            num_layers=int(qwen["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(qwen.get("num_key_value_heads", heads)),
            head_dim=int(qwen.get("head_dim") or qwen["hidden_size"] // heads),
            intermediate_size=int(qwen["intermediate_size"]),
            text_vocab=int(qwen["vocab_size"]),
            speech_tokens=int(llm["speech_token_size"]),
            rms_norm_eps=float(qwen.get("rms_norm_eps", 1e-6)),
            rope_theta=float(qwen.get("rope_theta", 1e6)),
            mix_ratio=(int(llm["mix_ratio"][0]), int(llm["mix_ratio"][1])),
            special=family.speech,
        ),
        sampling=SamplingConfig(
            top_p=float(llm["sampling"]["top_p"]),
            top_k=int(llm["sampling"]["top_k"]),
            win_size=int(llm["sampling"]["win_size"]),
            tau_r=float(llm["sampling"]["tau_r"]),
            min_token_text_ratio=float(config.get("min_token_text_ratio", 2)),
            max_token_text_ratio=float(config.get("max_token_text_ratio", 20)),
        ),
        flow=read_flow(raw, family.flow),
        vocoder=read_vocoder(raw, family.vocoder, mel.hop),
        mel=mel,
        card=card,
        raw=raw,
    )


def _mel(raw: Mapping[str, Any], family: ModelFamily) -> MelConfig:
    mel = raw.get("feat_extractor", {})
    fmax = mel.get("fmax", family.mel_fmax)
    return MelConfig(
        sample_rate=int(mel.get("sampling_rate", raw["sample_rate"])),
        n_fft=int(mel.get("n_fft", 1920)),
        hop=int(mel.get("hop_size", 480)),
        window=int(mel.get("win_size", 1920)),
        bins=int(mel.get("num_mels", 80)),
        fmin=float(mel.get("fmin", 0)),
        fmax=None if fmax is None else float(fmax),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return read_hyper_yaml(path)
    except (OSError, ValueError) as error:
        raise ModelDirError(f"{error}; fetch the checkpoint again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelDirError(f"{path} is not readable JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(data, dict):
        raise ModelDirError(f"{path} is not a JSON object; fetch the checkpoint again")
    return data


def _read_card(root: Path) -> Card:
    path = root / CARD
    if not path.is_file():
        return Card(name=root.name)
    data = _read_yaml(path)
    unknown = set(data) - {"name", "description", "languages", "split", "text_streaming", "voices", "alignment"}
    if unknown:
        raise ModelDirError(f"{path}: unknown keys {', '.join(sorted(map(str, unknown)))}")
    default = Card(name=root.name)
    streaming, languages = data.get("text_streaming", default.text_streaming), data.get("languages", default.languages)
    if streaming not in ("interleaved", "sentence"):
        raise ModelDirError(f"{path}: text_streaming must be 'interleaved' or 'sentence'")
    if isinstance(languages, str):
        raise ModelDirError(f"{path}: languages must be a list: [{languages}]")
    try:
        return Card(
            name=str(data.get("name", root.name)),
            description=str(data.get("description", "")).strip(),
            languages=tuple(languages),
            split=SplitConfig(**data.get("split", {})),
            text_streaming=streaming,
            voices=tuple(_bundled_voice(root, entry) for entry in data.get("voices", ())),
            alignment=tuple(_head(entry) for entry in data.get("alignment", ())),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelDirError(f"{path}: missing or malformed entry ({error!r})") from error


def _head(entry: Mapping[str, Any]) -> AlignmentHead:
    return AlignmentHead(int(entry["layer"]), int(entry["head"]), float(entry["score"]))


def _bundled_voice(root: Path, entry: Mapping[str, Any]) -> BundledVoice:
    audio, transcript = root / entry["audio"], root / entry["transcript"]
    if not audio.is_file() or not transcript.is_file():
        raise ValueError(f"voice {entry['name']!r} has a file that does not exist")
    return BundledVoice(entry["name"], audio, transcript.read_text(encoding="utf-8").strip())
