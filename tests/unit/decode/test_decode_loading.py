"""Which backend a worker gets, what stands in for one that cannot be had, and what becomes of values not finite."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import decode_support as support
import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from services.common.modeldir import open_model_dir
from services.common.server import StartError
from services.decode.backends import ClockedBackend, Hop
from services.decode.flow.model import EstimatorFactory
from services.decode.flow.unet import UNet
from services.decode.loading import estimator_factory, load_backend, prepare, usable_device
from services.decode.onnx_estimator import onnx_estimator
from services.decode.settings import DecodeSettings
from services.decode.torch_backend import NonFiniteAudio, Precision, TorchBackend

CPU = torch.device("cpu")
MODEL = open_model_dir(support.ROOT / "tests" / "data" / "cosyvoice2-mini")
SAME = 1e-3


def loaded(**settings: Any) -> Any:
    return load_backend(DecodeSettings(**settings), MODEL)


def speak(over: TorchBackend, count: int = 90) -> np.ndarray:
    state, tokens, made = over.open(support.voice(30)), support.speech(count), []
    for end in (50, 75, 30 + count):
        (audio,) = over.run([Hop(state, tokens, end, final=True)], lambda: None)
        if isinstance(audio, Exception):
            raise audio
        made.append(audio.samples)
    return np.concatenate(made)


def substituted(make: EstimatorFactory) -> TorchBackend:
    made = TorchBackend(MODEL, state_bytes=0, make_estimator=make)
    made.vocoder.context = support.mini_backend().vocoder.context
    return made


def test_onnx_speaks_what_pytorch_speaks(tmp_path: Path) -> None:
    over = substituted(partial(onnx_estimator, cache=tmp_path, device=CPU))
    assert np.abs(speak(over) - speak(support.mini_backend())).max() <= SAME
    assert over.counts().recomputed_frames == 2 * (50 + 75)


def test_values_that_are_not_finite_are_computed_again() -> None:
    class Overflowing:
        """Breaks down in its second step."""

        dtype = torch.float32

        def __init__(self, network: UNet) -> None:
            self.layout, self.time_terms, self._network, self._calls = network.layout, network.time_terms, network, 0

        def __call__(self, *arguments: Any) -> torch.Tensor:
            self._calls += 1
            return self._network(*arguments) * (float("inf") if self._calls == 2 else 1.0)

    over = substituted(Overflowing)
    assert np.abs(speak(over) - speak(support.mini_backend())).max() <= SAME
    assert over.counts().non_finite == 1


def test_a_voice_that_overflows_in_float32_too_fails_and_leaves_no_trace() -> None:
    made = TorchBackend(MODEL, precision=Precision(state=torch.float16))
    made.vocoder.context = support.mini_backend().vocoder.context
    spec = support.voice(30)
    spec.prompt_mel[:] = 3e38
    state = made.open(spec)
    (audio,) = made.run([Hop(state, support.speech(90), 50, final=True)], lambda: None)
    assert isinstance(audio, NonFiniteAudio)
    del state
    assert made.counts().kept_bytes == 0
    assert np.isfinite(speak(made)).all()


def test_a_device_that_is_not_there_gives_way_to_the_cpu_loudly() -> None:
    with capture_logs() as lines:
        assert usable_device("cuda:7") == CPU
    assert lines[0]["log_level"] == "error"
    assert "DECODING ON THE CPU" in lines[0]["event"]
    assert usable_device("cpu") == CPU


def test_a_backend_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"tensorrt .*not installed.*LIGHTTTS_DECODE_BACKEND=auto"):
        loaded(decode_backend="tensorrt", decode_cache_dir=tmp_path)
    with pytest.raises(StartError, match="LIGHTTTS_DECODE_COST_FILE"):
        loaded(decode_backend="clocked")
    costs = tmp_path / "costs.json"
    costs.write_text("{}")
    with pytest.raises(StartError, match="cost file"):
        loaded(decode_backend="clocked", decode_cost_file=costs)
    costs.write_text('{"batch_s": 0.1, "stream_s": 0, "frame_s": 0}')
    assert isinstance(loaded(decode_backend="clocked", decode_cost_file=costs), ClockedBackend)


def test_auto_keeps_state_where_it_can(tmp_path: Path) -> None:
    settings = DecodeSettings(decode_cache_dir=tmp_path)
    assert estimator_factory(settings, torch.device("cuda")) is None
    assert estimator_factory(settings, CPU) is None
    stateless = DecodeSettings(decode_cache_dir=tmp_path, decode_keep_state=False)
    assert estimator_factory(stateless, torch.device("cuda")) is not None
    assert estimator_factory(stateless, CPU) is None
    assert loaded(decode_cache_dir=tmp_path, decode_keep_state=False).counts().budget_bytes == 0
    assert loaded(decode_state_bytes=2**30, decode_state_precision="float8").counts().budget_bytes > 0.9 * 2**30


def test_preparing_fills_the_cache(tmp_path: Path) -> None:
    prepare(MODEL, DecodeSettings(decode_backend="onnx", decode_cache_dir=tmp_path / "new"))
    (graph,) = (tmp_path / "new").iterdir()
    assert graph.name.startswith("estimator-")
    written = graph.stat().st_mtime_ns
    loaded(decode_backend="onnx", decode_cache_dir=tmp_path / "new")
    assert graph.stat().st_mtime_ns == written
