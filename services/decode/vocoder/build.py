"""The vocoder of a model directory."""

from __future__ import annotations

import torch

from services.common.checkpoint.model_dir import ModelDir
from services.common.checkpoint.weights import read_weights
from services.decode.vocoder.context import layer_bound
from services.decode.vocoder.stream import Vocoder


def build_vocoder(model: ModelDir, device: torch.device | None = None) -> Vocoder:
    """Return the vocoder, whose context is the bound of its layers. Raises ModelDirError if the weights do not fit."""
    weights = read_weights(model.weights_file("hift"))
    return Vocoder(model.vocoder, weights, layer_bound(model.vocoder), device)
