"""What judges a voice: recognisers, a model of listeners, and simple properties of the samples."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.encode.voice.features import TOKEN_RATE, resample, speaker_features

F32 = NDArray[np.float32]
_DNSMOS_SAMPLES = 144160
"""9.01 s at 16 kHz; shorter audio is repeated."""
_POLYNOMIALS = {
    "signal": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}
"""From the network's outputs to opinion scores, as in the package speechmos (MIT)."""
_QUIET_DB = -40.0


class Dnsmos:
    """DNSMOS P.835 (Reddy 2022): 1 (bad) to 5. The network is the file `sig_bak_ovr.onnx` of the package speechmos."""

    def __init__(self, path: Path) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(self, samples: F32, rate: int) -> dict[str, float]:
        """Return the scores `signal`, `background` and `overall`."""
        low = np.clip(resample(samples, rate, TOKEN_RATE), -1, 1)
        repeated = np.tile(low, -(-_DNSMOS_SAMPLES // max(1, len(low))))[:_DNSMOS_SAMPLES]
        [raw] = self._session.run(None, {self._session.get_inputs()[0].name: repeated[None]})[0]
        return {
            name: float(np.polyval(_POLYNOMIALS[name], value)) for name, value in zip(_POLYNOMIALS, raw, strict=True)
        }


def find_dnsmos() -> Path | None:
    """Return the network's file if the package speechmos is installed; its code is not imported."""
    spec = importlib.util.find_spec("speechmos")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "dnsmos_models" / "sig_bak_ovr.onnx"
    return path if path.is_file() else None


class SpeakerJudge:
    """Compares voices by the speaker encoder of a model directory. It is the voice's own encoder, so it is lenient."""

    def __init__(self, encoder: Path) -> None:
        from onnxruntime import InferenceSession

        self._session: Any = InferenceSession(str(encoder), providers=["CPUExecutionProvider"])

    def embed(self, samples: F32, rate: int) -> F32:
        """Return a vector of length 1."""
        bank = speaker_features(resample(samples, rate, TOKEN_RATE))
        vector = np.asarray(self._session.run(None, {"input": bank})[0][0], dtype=np.float32)
        return vector / np.float32(np.linalg.norm(vector) + 1e-9)


def leading_silence(samples: F32, rate: int) -> float:
    """Return the seconds before the first 5 ms that are louder than -40 dB of the loudest ones."""
    size = rate // 200
    blocks = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    rms = np.sqrt((blocks**2).mean(axis=1))
    loud = np.flatnonzero(rms > 10 ** (_QUIET_DB / 20) * rms.max(initial=1e-9))
    return float(loud[0] * size / rate) if len(loud) else len(samples) / rate
