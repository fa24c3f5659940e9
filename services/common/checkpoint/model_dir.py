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
from services.common.checkpoint.yaml_nodes import NodeError

Family = Literal["cosyvoice2", "cosyvoice3"]
FAMILIES: tuple[Family, ...] = ("cosyvoice2", "cosyvoice3")
CARD = "light-tts.yaml"


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
    family: Family = "cosyvoice2"

    @property
    def eos(self) -> int:
        return self.speech_tokens + (1 if self.family == "cosyvoice3" else 0)

    @property
    def fill(self) -> int:
        return self.speech_tokens + (3 if self.family == "cosyvoice3" else 2)


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
class VocoderConfig:
    """Mel to samples: HiFT (spec section 7)."""

    in_channels: int = 80
    base_channels: int = 512
    nb_harmonics: int = 8
    sample_rate: int = 24000
    sine_amplitude: float = 0.1
    noise_sigma: float = 0.003
    voiced_threshold: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    istft_n_fft: int = 16
    istft_hop: int = 4
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    source_kernels: tuple[int, ...] = (7, 7, 11)
    source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    f0_channels: int = 512
    causal: bool = False
    """CosyVoice3 (spec section 9): layers see the past only, but for the pitch's and the generator's first ones."""
    conv_pre_look_right: int = 3
    """Frames that the generator's first layer sees to the right."""
    family: Family = "cosyvoice2"

    @property
    def hop(self) -> int:
        """Samples per mel frame (480 at 24 kHz)."""
        samples = self.istft_hop
        for rate in self.upsample_rates:
            samples *= rate
        return samples


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


@dataclass(frozen=True)
class BundledVoice:
    """A prompt that ships inside the model directory."""

    name: str
    audio: Path
    transcript: str


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


@dataclass(frozen=True)
class ModelDir:
    """An opened model directory. Paths are checked to exist; weights are read by `checkpoint.weights`."""

    path: Path
    family: Family
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
        return self.path / f"speech_tokenizer_v{'3' if self.family == 'cosyvoice3' else '2'}.onnx"

    @property
    def speaker_encoder(self) -> Path:
        return self.path / "campplus.onnx"

    def weights_file(self, part: Literal["llm", "flow", "hift"]) -> Path:
        return self.path / f"{part}.pt"


def open_model_dir(path: str | Path) -> ModelDir:
    """Read a model directory's configuration and check that the files that services need exist.

    Raises ModelDirError with all missing files, or with the YAML node that is missing, of the wrong type
    or not implemented.
    """
    root = Path(path)
    if not root.is_dir():
        raise ModelDirError(f"model directory {root} does not exist; set LIGHTTTS_MODEL_DIR to an existing one")
    family = next((f for f in FAMILIES if (root / f"{f}.yaml").is_file()), None)
    if family is None:
        raise ModelDirError(f"{root} has none of {', '.join(f'{f}.yaml' for f in FAMILIES)}: not a model directory")
    version = "3" if family == "cosyvoice3" else "2"
    needed = ["llm.pt", "flow.pt", "hift.pt", "campplus.onnx", f"speech_tokenizer_v{version}.onnx"]
    needed += ["CosyVoice-BlankEN/config.json"]
    missing = [name for name in needed if not (root / name).is_file()]
    if missing:
        raise ModelDirError(f"{root} lacks {', '.join(missing)}; fetch the checkpoint again")
    raw = _read_yaml(root / f"{family}.yaml")
    qwen = _read_json(root / "CosyVoice-BlankEN" / "config.json")
    card = _read_card(root)
    try:
        return _build(root, family, raw, qwen, card)
    except NodeError as error:
        raise ModelDirError(f"{root / f'{family}.yaml'}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelDirError(f"{root / f'{family}.yaml'}: missing or malformed node ({error!r})") from error


def _build(root: Path, family: Family, raw: Mapping[str, Any], qwen: Mapping[str, Any], card: Card) -> ModelDir:
    llm, hift = raw["llm"], raw["hift"]
    mel = raw.get("feat_extractor", {})
    heads = int(qwen["num_attention_heads"])
    config = _read_json(root / "config.json") if (root / "config.json").is_file() else {}
    defaults = VocoderConfig()
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
            family=family,
        ),
        sampling=SamplingConfig(
            top_p=float(llm["sampling"]["top_p"]),
            top_k=int(llm["sampling"]["top_k"]),
            win_size=int(llm["sampling"]["win_size"]),
            tau_r=float(llm["sampling"]["tau_r"]),
            min_token_text_ratio=float(config.get("min_token_text_ratio", 2)),
            max_token_text_ratio=float(config.get("max_token_text_ratio", 20)),
        ),
        flow=read_flow(raw),
        vocoder=VocoderConfig(
            in_channels=int(hift.get("in_channels", 80)),
            base_channels=int(hift["base_channels"]),
            nb_harmonics=int(hift["nb_harmonics"]),
            sample_rate=int(hift.get("sampling_rate", raw["sample_rate"])),
            sine_amplitude=float(hift.get("nsf_alpha", defaults.sine_amplitude)),
            noise_sigma=float(hift.get("nsf_sigma", defaults.noise_sigma)),
            voiced_threshold=float(hift.get("nsf_voiced_threshold", defaults.voiced_threshold)),
            upsample_rates=_ints(hift["upsample_rates"]),
            upsample_kernels=_ints(hift["upsample_kernel_sizes"]),
            istft_n_fft=int(hift["istft_params"]["n_fft"]),
            istft_hop=int(hift["istft_params"]["hop_len"]),
            resblock_kernels=_ints(hift["resblock_kernel_sizes"]),
            resblock_dilations=tuple(_ints(d) for d in hift["resblock_dilation_sizes"]),
            source_kernels=_ints(hift["source_resblock_kernel_sizes"]),
            source_dilations=tuple(
                _ints(d) for d in hift.get("source_resblock_dilation_sizes", defaults.source_dilations)
            ),
            lrelu_slope=float(hift.get("lrelu_slope", defaults.lrelu_slope)),
            audio_limit=float(hift.get("audio_limit", defaults.audio_limit)),
            f0_channels=int(hift["f0_predictor"]["cond_channels"]),
            causal=family == "cosyvoice3",
            conv_pre_look_right=int(hift["conv_pre_look_right"]) if family == "cosyvoice3" else 3,
            family=family,
        ),
        mel=MelConfig(
            sample_rate=int(mel.get("sampling_rate", raw["sample_rate"])),
            n_fft=int(mel.get("n_fft", 1920)),
            hop=int(mel.get("hop_size", 480)),
            window=int(mel.get("win_size", 1920)),
            bins=int(mel.get("num_mels", 80)),
            fmin=float(mel.get("fmin", 0)),
            fmax=_fmax(mel, family),
        ),
        card=card,
        raw=raw,
    )


def _fmax(mel: Mapping[str, Any], family: Family) -> float | None:
    default = 8000.0 if family == "cosyvoice2" else None
    value = mel.get("fmax", default)
    return None if value is None else float(value)


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


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
    unknown = set(data) - {"name", "description", "languages", "split", "text_streaming", "voices"}
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
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelDirError(f"{path}: missing or malformed entry ({error!r})") from error


def _bundled_voice(root: Path, entry: Mapping[str, Any]) -> BundledVoice:
    audio, transcript = root / entry["audio"], root / entry["transcript"]
    if not audio.is_file() or not transcript.is_file():
        raise ValueError(f"voice {entry['name']!r} has a file that does not exist")
    return BundledVoice(entry["name"], audio, transcript.read_text(encoding="utf-8").strip())
