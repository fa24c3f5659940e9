"""Loads the networks of a model directory, to see whether the weights fit the configuration. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from services.common.checkpoint.model_dir import ModelDir, Part
from services.decode.flow.model import Flow
from services.decode.vocoder.context import layer_bound
from services.decode.vocoder.stream import Vocoder
from services.llm.model.model import load_speech_lm


def load_network(model: ModelDir, part: Part, file: Path, weights: Mapping[str, Tensor]) -> None:
    """Load `weights`, read from `file`, into the network of `part`.

    Raises ModelDirError with the keys that are missing, misshapen or unexpected.
    """
    if part == "llm":
        load_speech_lm(model, path=file)
    elif part == "flow":
        Flow(model.flow, weights)
    else:
        Vocoder(model.vocoder, weights, layer_bound(model.vocoder))
