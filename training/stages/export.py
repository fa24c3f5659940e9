"""Stage export: a model directory in the official layout, with official key names, in fp16."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
import yaml
from torch import Tensor, nn

from services.common.checkpoint.flow_config import read_flow
from services.common.checkpoint.hyperyaml import read_hyper_yaml
from services.common.families import COSYVOICE2
from training.fit import load_averaged
from training.networks.flow import FlowTrainer
from training.networks.lm import ALIGNED_HEADS, ALIGNED_LAYER, LmTrainer
from training.networks.speaker import SpeakerClassifier
from training.networks.tokenizer import TokenEncoder, Tokenizer
from training.networks.vocoder import VocoderTrainer
from training.sizes import TEMPLATE, flow_config, vocoder_config
from training.stages import lm, tokenizer
from training.stages.flow import FEW_STEPS
from training.stages.text import HELD_OUT
from training.start import continued, directory
from training.store import Store
from training.teacher.kokoro import RATE
from training.teacher.speakers import SPEAKERS
from training.work import Work

PRODUCT_VOICES = (0, 1)
"""Numbers of SPEAKERS."""
FORMER_NAMES = {"slt": "anna", "rms": "hugo"}
"""Names of the voices of the release before, and the voice that each stands for. They go with the release after."""
DESCRIPTION = "A demonstration voice trained on synthetic English speech. It is no cloner of arbitrary voices."
LONGEST = 29
"""Most text ids of a sentence that the language model, trained on 3 to 14 words, ended in all of 200 utterances."""
PROMPT_FRAMES = (100, 170)
"""Length of a prompt, in frames of 20 ms."""
FIRST_HOP_TOKENS = (16, 18)
"""Tokens from the end of a prompt to the next border of a chunk. A first hop of fewer gives too little audio, so that
it ends a chunk later; one of more comes later than it must."""
CHECKED = 25
"""The number of held-out sentences, from the first on, that are exported for `light-tts verify` and the tests."""
_NORMED = re.compile(
    r"(conv_pre|conv_post|ups\.\d+|.*resblocks\.\d+\.convs[12]\.\d+|f0_predictor\.condnet\.\d+)\.weight"
)
"""Layers of the official vocoder that have weight norm."""
_OPSET = 17


def run(work: Work) -> Path:
    """Write the directory from the newest checkpoints and return it. The old one stays until it is complete.

    A network that was not trained here comes from the directory of `--start`.
    """
    part = work.export.with_name(work.export.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    steps = _flow(work, part)
    _weights(work, part)
    _graphs(work, part)
    _configuration(part, steps)
    _text(work, part)
    write_card(work, part)
    shutil.rmtree(work.export, ignore_errors=True)
    os.replace(part, work.export)
    return work.export


def with_weight_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return vocoder weights under the official names: a magnitude and a direction for layers with weight norm."""
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        if not _NORMED.fullmatch(key):
            named[key] = value
            continue
        layer = key.removesuffix(".weight")
        size = torch.linalg.vector_norm(value.double(), dim=tuple(range(1, value.dim())), keepdim=True).float()
        named[f"{layer}.parametrizations.weight.original0"] = size
        named[f"{layer}.parametrizations.weight.original1"] = value
    return named


def _flow(work: Work, folder: Path) -> int | None:
    """Write the flow; return the steps of a distilled one."""
    for stage in ("distil", "flow"):
        if work.checkpoint(stage).is_file():
            net = cast(FlowTrainer, load_averaged(FlowTrainer(flow_config()), work.checkpoint(stage)))
            torch.save(_halved(net.exported()), folder / "flow.pt")
            return FEW_STEPS if stage == "distil" else None
    source = _copied(work, folder, "flow.pt")
    solver = read_flow(read_hyper_yaml(source / "cosyvoice2.yaml"), COSYVOICE2.flow).solver
    return None if solver.cfg_rate else solver.steps


def _weights(work: Work, folder: Path) -> None:
    if work.checkpoint("lm").is_file():
        language = _halved(cast(LmTrainer, load_averaged(lm.make(work), work.checkpoint("lm"))).exported())
        # One tensor under two names is stored once.
        language["llm.model.lm_head.weight"] = language["llm.model.model.embed_tokens.weight"]
        torch.save(language, folder / "llm.pt")
    else:
        _copied(work, folder, "llm.pt")
    if work.checkpoint("vocoder").is_file():
        sounds = cast(VocoderTrainer, load_averaged(VocoderTrainer(vocoder_config()), work.checkpoint("vocoder")))
        torch.save(_halved(with_weight_norm(sounds.exported())), folder / "hift.pt")
    else:
        _copied(work, folder, "hift.pt")


def _copied(work: Work, folder: Path, *names: str) -> Path:
    """Copy files of the directory of `--start` and return the directory. Raises FileNotFoundError if there is none."""
    source = directory(work)
    if source is None:
        raise FileNotFoundError(f"{' and '.join(names)}: nothing was trained in {work.root}, and --start names nothing")
    for name in names:
        shutil.copy(source / name, folder / name)
    return source


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}


class _TokenGraph(nn.Module):
    """The official interface of the speech tokenizer: feats [1, 128, T], feats_length [1] -> indices [1, T / 4]."""

    def __init__(self, encoder: TokenEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        tokens = self.encoder.tokens(feats).to(torch.int32)
        return tokens[:, : (feats_length[0].to(torch.int64) + 3) // 4]


def _graphs(work: Work, folder: Path) -> None:
    if continued(work) is not None:
        _copied(work, folder, "speech_tokenizer_v2.onnx", "campplus.onnx")
        return
    speech = cast(Tokenizer, load_averaged(tokenizer.make(), work.checkpoint("tokenizer"))).encoder
    example = (torch.randn(1, 128, 400), torch.tensor([400], dtype=torch.int32))
    axes = {"feats": {2: "T"}, "indices": {1: "N"}}
    inputs = ["feats", "feats_length"]
    _to_onnx(_TokenGraph(speech), example, folder / "speech_tokenizer_v2.onnx", inputs, "indices", axes)
    speakers = load_averaged(SpeakerClassifier(len(SPEAKERS)), work.checkpoint("speaker"))
    bank = (torch.randn(1, 200, 80),)
    encoder = cast(SpeakerClassifier, speakers).encoder
    _to_onnx(encoder, bank, folder / "campplus.onnx", ["input"], "output", {"input": {1: "T"}})


def _to_onnx(
    net: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    output: str,
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    with warnings.catch_warnings():
        # The exporter by tracing is deprecated, but the other one needs a package that nothing else here needs.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            example,
            str(path),
            input_names=inputs,
            output_names=[output],
            dynamic_axes={name: dict(axis) for name, axis in axes.items()},
            opset_version=_OPSET,
            dynamo=False,
        )


def _configuration(folder: Path, steps: int | None) -> None:
    """Write the sizes; `steps` are those of a flow without guidance."""
    shutil.copy(TEMPLATE / "config.json", folder / "config.json")
    raw: dict[str, Any] = read_hyper_yaml(TEMPLATE / "cosyvoice2.yaml")
    if steps is not None:
        raw["flow"]["decoder"].update(n_timesteps=steps, inference_cfg_rate=0.0)
    text = yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=110)
    (folder / "cosyvoice2.yaml").write_text(text, encoding="utf-8")


def _text(work: Work, folder: Path) -> None:
    target = folder / "CosyVoice-BlankEN"
    target.mkdir()
    shutil.copy(TEMPLATE / "CosyVoice-BlankEN" / "config.json", target / "config.json")
    source = work.codes / "tokenizer.json"
    shutil.copy(source, target / "tokenizer.json")
    model = json.loads(source.read_text(encoding="utf-8"))["model"]
    (target / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def write_card(work: Work, folder: Path) -> None:
    """Write the prompts of the product's voices, the card that names them, and the held-out sentences."""
    store, voices = Store(work.speech), []
    for number in PRODUCT_VOICES:
        name, index = SPEAKERS[number].name, prompt_of(store, number)
        samples = store.read(index, "wav").astype(np.int16)
        soundfile.write(folder / f"prompt_{name}.wav", samples, RATE, subtype="PCM_16")
        text = store.places[index].utterance.text
        (folder / f"prompt_{name}.txt").write_text(text + "\n", encoding="utf-8")
        voices.append((name, name))
    voices += FORMER_NAMES.items()
    guides = [line["guide"] for line in work.logged("lm") if "guide" in line]
    aligned = round(math.exp(-guides[-1]), 3) if guides else 0.0
    card = {
        "name": "tiny",
        "description": DESCRIPTION,
        "languages": ["en"],
        "text_streaming": "interleaved",
        # One sentence at a time: the first one's audio does not wait for the end of the second.
        "split": {"max_length": 1, "min_length": 0, "merge_length": 0, "longest": LONGEST},
        "voices": [
            {"name": name, "audio": f"prompt_{file}.wav", "transcript": f"prompt_{file}.txt"} for name, file in voices
        ],
        "alignment": [{"layer": ALIGNED_LAYER, "head": head, "score": aligned} for head in range(ALIGNED_HEADS)],
    }
    note = "# What the official files cannot say about this checkpoint; see services/common/checkpoint/model_dir.py.\n"
    text = note + yaml.safe_dump(card, sort_keys=False, default_flow_style=None, width=110)
    (folder / "light-tts.yaml").write_text(text, encoding="utf-8")
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[:CHECKED]
    (folder / f"heldout{CHECKED}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def prompt_of(store: Store, speaker: int) -> int:
    """Return the speaker's utterance of a prompt's length with the most words; without one, the longest shorter one.

    Those whose end makes the first audio early are preferred.
    """
    own = [index for index, place in enumerate(store.places) if place.utterance.speaker == speaker]
    if not own:
        raise ValueError(f"the set has no utterance of {SPEAKERS[speaker].name}: the stage speech must make more")
    low, high = PROMPT_FRAMES
    flow = flow_config()

    def fitness(index: int) -> tuple[bool, bool, int, int]:
        utterance = store.places[index].utterance
        fits = low <= utterance.frames <= high
        left = flow.chunk_tokens - utterance.frames // flow.mel_frames_per_token % flow.chunk_tokens
        early = fits and FIRST_HOP_TOKENS[0] <= left <= FIRST_HOP_TOKENS[1]
        return fits, early, len(utterance.words) if fits else -abs(utterance.frames - low), -index

    return max(own, key=fitness)
