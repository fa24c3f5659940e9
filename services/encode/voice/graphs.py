"""The two ONNX graphs of a model directory: speaker encoder (CAM++) and speech tokenizer (S3). Spec section 3.

Inputs and outputs are used by position, because the official files and their re-exports have different names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDirError
from services.encode.voice.features import speaker_features, whisper_log_mel


@dataclass(frozen=True)
class GraphOptions:
    """How graphs run. Several threads may use a session at once; each run uses `threads` threads."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime execution providers in order of preference."""
    threads: int = 1


DEFAULT_OPTIONS = GraphOptions()


class SpeakerEncoder:
    """CAM++: 16 kHz audio to a speaker embedding."""

    def __init__(self, path: Path, size: int, options: GraphOptions = DEFAULT_OPTIONS) -> None:
        """`size` is the embedding's size in the model directory.

        Raises ModelDirError if the graph is missing, damaged or has other inputs.
        """
        self._graph = _Graph(path, options, inputs=1)
        self._size = size

    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N] samples at 16 kHz -> [size]."""
        embedding = self._graph.run(speaker_features(audio)).astype(np.float32).reshape(-1)
        if embedding.shape != (self._size,):
            raise ModelDirError(
                f"{self._graph.path} returned {embedding.size} values, but spk_embed_dim is {self._size}: "
                "it belongs to another model"
            )
        return embedding


class SpeechTokenizer:
    """S3 tokenizer: 16 kHz audio of at most 30 s to speech ids at 25 Hz."""

    def __init__(self, path: Path, vocabulary: int, options: GraphOptions = DEFAULT_OPTIONS) -> None:
        """`vocabulary` is V of the model directory: every id must be below it.

        Raises ModelDirError if the graph is missing, damaged or has other inputs.
        """
        self._graph = _Graph(path, options, inputs=2)
        self._vocabulary = vocabulary

    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.int32]:
        """[N] samples at 16 kHz -> [about N / 640] ids."""
        mel = whisper_log_mel(audio)
        tokens = self._graph.run(mel, np.array([mel.shape[2]], dtype=np.int32)).reshape(-1)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self._vocabulary):
            raise ModelDirError(
                f"{self._graph.path} returned ids outside 0..{self._vocabulary - 1}: it belongs to another model"
            )
        return tokens.astype(np.int32)


class _Graph:
    def __init__(self, path: Path, options: GraphOptions, inputs: int) -> None:
        self.path = path
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        lacking = set(options.providers) - set(onnxruntime.get_available_providers())
        if lacking:
            have = ", ".join(onnxruntime.get_available_providers())
            raise ModelDirError(f"ONNX Runtime has no {', '.join(sorted(lacking))}; available: {have}")
        try:
            self._session = onnxruntime.InferenceSession(path, settings, providers=list(options.providers))
        except Exception as error:  # onnxruntime has one class per status code, all fatal here
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelDirError(f"{path} cannot be loaded ({first_line}); fetch the checkpoint again") from error
        self._names = [entry.name for entry in self._session.get_inputs()]
        if len(self._names) != inputs:
            raise ModelDirError(f"{path} takes {len(self._names)} inputs, expected {inputs}: it is another graph")

    def run(self, *values: NDArray[Any]) -> NDArray[Any]:
        feeds = dict(zip(self._names, values, strict=True))
        outputs: Sequence[Any] = self._session.run(None, feeds)
        return np.asarray(outputs[0])
