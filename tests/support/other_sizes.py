"""A CosyVoice3 directory in which no size is one of the official checkpoint or of the mini, with random weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from services.common.checkpoint.model_dir import open_model_dir
from services.decode.flow.model import make_front, make_network
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.pitch import PitchPredictor
from services.decode.vocoder.source import HarmonicSource

MINI = Path(__file__).parents[1] / "data" / "cosyvoice3-mini"
SIZES: dict[str, object] = {
    "spk_embed_dim": 40,
    "chunk_size": 20,
    "vocab_size": 500,
    "speech_token_size": 500,
    "pre_lookahead_len": 2,
    "channels": 24,
    "dim": 48,
    "depth": 2,
    "heads": 3,
    "dim_head": 20,
    "ff_mult": 3,
    "inference_cfg_rate": 1.3,
    "base_channels": 24,
    "nb_harmonics": 5,
    "nsf_alpha": 0.15,
    "nsf_sigma": 0.01,
    "nsf_voiced_threshold": 20,
    "upsample_rates": [6, 5, 2],
    "upsample_kernel_sizes": [13, 8, 6],
    "n_fft: 16\n        hop_len": 8,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 2], [1, 4]],
    "source_resblock_kernel_sizes": [5, 7, 3],
    "source_resblock_dilation_sizes": [[1, 2], [1], [1, 3]],
    "lrelu_slope": 0.2,
    "audio_limit": 0.9,
    "conv_pre_look_right": 2,
    "cond_channels": 20,
}
MEL = 64
STEPS = 4


def write_other_sizes(folder: Path) -> Path:
    """Write the directory: its YAML, `flow.pt` and `hift.pt`; the other files are the mini's."""
    shutil.copytree(MINI, folder, ignore=shutil.ignore_patterns("*.npz", "flow.pt", "hift.pt", "config.json"))
    shutil.copy(MINI / "CosyVoice-BlankEN" / "config.json", folder / "CosyVoice-BlankEN")
    for part in ("flow", "hift"):
        (folder / f"{part}.pt").touch()
    path = folder / "cosyvoice3.yaml"
    text = path.read_text(encoding="utf-8")
    for name, value in SIZES.items():
        text, count = re.subn(rf"(?<=\b{re.escape(name)}: )[^!\n]+", str(value), text)
        if not count:
            raise ValueError(f"{path} has no {name}")
    text = re.sub(r"\b80\b", str(MEL), text).replace("in_channels: 240", f"in_channels: {3 * MEL}")
    text = text.replace("t_scheduler: 'cosine'", f"t_scheduler: 'linear'\n                n_timesteps: {STEPS}")
    path.write_text(text.replace("n_fft: 16", "n_fft: 24", 1), encoding="utf-8")
    model = open_model_dir(folder)
    torch.manual_seed(3)
    front, network = make_front(model.flow), make_network(model.flow)
    flow = {
        **dict(front.named_children()),
        "spk_embed_affine_layer": nn.Linear(model.flow.speaker_dim, model.flow.output_size),
        "decoder": nn.ModuleDict({"estimator": network}),
    }
    hift = nn.ModuleDict({"m_source": HarmonicSource(model.vocoder), "f0_predictor": PitchPredictor(model.vocoder)})
    vocoder = {**Generator(model.vocoder).state_dict(), **hift.state_dict()}
    _speaks(vocoder, model.vocoder.voiced_threshold)
    torch.save(nn.ModuleDict(flow).state_dict(), folder / "flow.pt")
    torch.save(vocoder, folder / "hift.pt")
    return folder


def _speaks(vocoder: dict[str, Tensor], threshold: float) -> None:
    """Give the random vocoder a pitch around the threshold and some loudness."""
    vocoder["f0_predictor.classifier.weight"] *= 40.0 * threshold
    vocoder["m_source.l_linear.weight"] *= 10.0
    vocoder["conv_post.weight"] *= 4.0
