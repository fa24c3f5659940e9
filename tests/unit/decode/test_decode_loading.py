"""The choice of a worker's backend, its fall-backs, and the handling of values that are not finite."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from services.common.checkpoint.model_dir import ModelDir
from services.common.start_error import StartError
from services.decode import loading
from services.decode.engine.backends import AudioFormat, CostModel, Hop, HopAudio, SimulatedBackend
from services.decode.engine.torch_backend import NonFiniteAudio, Precision, TorchBackend, TorchState
from services.decode.estimators.cpu_step import JoinedEstimator
from services.decode.estimators.onnx import onnx_estimator
from services.decode.estimators.tensorrt import set_precision
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.forward_pass import Pass
from services.decode.flow.model import EstimatorFactory, Flow, FlowHop, FlowMel
from services.decode.flow.unet import UNet
from services.decode.loading import (
    engine_limits,
    estimator_factory,
    largest_batch,
    load_backend,
    memory_share,
    precision_name,
    prepare,
)
from services.decode.settings import DecodeSettings
from services.decode.vocoder.stream import Vocoder
from tests.support.cuda import Cuda
from tests.support.logs import capture_logs
from tests.unit.decode import decode_support as support

CPU = torch.device("cpu")
MODEL = support.mini()
SAME = 1e-3
BARE_MACHINE = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
absent = ("grpc", "google", "structlog", "pydantic", "pydantic_settings", "prometheus_client", "lighttts")
sys.modules |= dict.fromkeys((*absent, "onnxruntime"))
from services.common.checkpoint.model_dir import open_model_dir
from services.decode.engine.backends import run_canary
from services.decode.loading import engine_limits, load_backend
settings = SimpleNamespace(**json.loads(sys.argv[1]))
backend = load_backend(settings, open_model_dir(Path(settings.model_dir)))
engine_limits(settings, backend)
run_canary(backend, lambda: None)
"""
"""Decodes a few tokens with torch and numpy alone."""


def loaded(**settings: Any) -> Any:
    return load_backend(DecodeSettings(**settings), MODEL)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backends of MODEL take the vocoder's context from another one instead of measuring it again."""
    context = support.mini_backend().vocoder.context
    monkeypatch.setattr(TorchBackend, "warm_up", lambda self: setattr(self.vocoder, "context", context))


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


def test_onnx_gives_the_audio_of_pytorch(tmp_path: Path) -> None:
    over = substituted(partial(onnx_estimator, cache=tmp_path, device=CPU))
    assert np.abs(speak(over) - speak(support.mini_backend())).max() <= SAME
    assert over.counts().recomputed_frames == 2 * (50 + 75)


def test_values_that_are_not_finite_are_computed_again() -> None:
    class Overflowing:
        """Returns infinity in its second step."""

        dtype = torch.float32

        def __init__(self, network: EstimatorNetwork) -> None:
            self._network, self._calls = network, 0

        def __call__(self, x: torch.Tensor, time_terms: list[torch.Tensor], frames: Pass) -> torch.Tensor:
            self._calls += 1
            return self._network(x, time_terms, frames) * (float("inf") if self._calls == 2 else 1.0)

    over = substituted(Overflowing)
    assert np.abs(speak(over) - speak(support.mini_backend())).max() <= SAME
    assert over.counts().non_finite == 1


def test_a_hop_that_cannot_be_computed_again_does_not_change_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams of one voice share its prompt; one gets NaN, and there is no memory to compute it again."""
    made, tokens = support.mini_backend(), support.speech(90)

    def begun() -> list[TorchState]:
        states = [made.open(support.voice(60, voice="shared")) for _ in range(2)]
        made.run([Hop(state, tokens, 100, final=False) for state in states], lambda: None)
        return states

    expected = made.run([Hop(state, tokens, 125, final=False) for state in begun()], lambda: None)
    states, decode = begun(), made.flow.decode
    kept = states[1].flow.kv_state
    assert kept is not None
    poisoned = kept.blocks[-1].index

    def broken(hops: Sequence[FlowHop], beat: Callable[[], None]) -> list[FlowMel]:
        if hops[0].exact:
            raise MemoryError
        made.flow.pool.caches["estimator"].write(
            3, 1, slice(50 * poisoned, 50 * poisoned + 50), torch.tensor(float("nan"))
        )
        return decode(hops, beat)

    monkeypatch.setattr(made.flow, "decode", broken)
    hops = [Hop(state, tokens, 125, final=False) for state in states]
    with pytest.raises(MemoryError):
        made.run(hops, lambda: None)
    monkeypatch.undo()
    one, other = (made.run([hop], lambda: None)[0] for hop in hops)
    for audio, wanted in zip((one, other), expected, strict=True):
        assert isinstance(audio, HopAudio)
        assert isinstance(wanted, HopAudio)
        assert np.abs(audio.samples - wanted.samples).max() <= SAME


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


def test_a_vocoder_that_fails_for_one_stream_fails_that_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tokens = support.mini_backend(), support.speech(90)
    append, broken = made.vocoder.append_all, made.open(support.voice(40))

    def failing(pieces: Sequence[Any]) -> list[torch.Tensor]:
        if any(state is broken.vocoder for state, _, _ in pieces):
            raise TypeError("no kernel takes these")
        return append(pieces)

    def audio(*states: TorchState) -> list[HopAudio | Exception]:
        return made.run([Hop(state, tokens, 50, final=True) for state in states], lambda: None)

    (expected,) = audio(made.open(support.voice(30)))
    monkeypatch.setattr(made.vocoder, "append_all", failing)
    error, good = audio(broken, made.open(support.voice(30)))
    assert isinstance(error, TypeError)
    assert isinstance(good, HopAudio)
    assert isinstance(expected, HopAudio)
    assert np.abs(good.samples - expected.samples).max() <= SAME


def test_an_unavailable_backend_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="LIGHTTTS_DECODE_COST_FILE"):
        loaded(decode_backend="simulated")
    costs = tmp_path / "costs.json"
    costs.write_text("{}")
    with pytest.raises(StartError, match="cost file"):
        loaded(decode_backend="simulated", decode_cost_file=costs)
    costs.write_text('{"batch_s": 0.1, "stream_s": 0, "frame_s": 0}')
    assert isinstance(loaded(decode_backend="simulated", decode_cost_file=costs), SimulatedBackend)


@pytest.mark.usefixtures("measured")
def test_auto_keeps_state_where_it_can(tmp_path: Path) -> None:
    settings = DecodeSettings(decode_cache_dir=tmp_path)
    assert estimator_factory(settings, torch.device("cuda")) is None
    assert estimator_factory(settings, CPU) is None
    stateless = DecodeSettings(decode_cache_dir=tmp_path, decode_keep_state=False)
    assert estimator_factory(stateless, torch.device("cuda")) is None
    assert estimator_factory(stateless, CPU) is None
    assert loaded(decode_cache_dir=tmp_path, decode_keep_state=False).counts().budget_bytes == 0
    assert loaded(decode_state_bytes=2**30, decode_state_precision="float8").counts().budget_bytes > 0.9 * 2**30


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("wanted", "kind"),
    [({}, JoinedEstimator), ({"decode_cpu_step": "plain"}, UNet), ({"decode_precision": "bfloat16"}, UNet)],
    ids=["by default", "plain", "bfloat16"],
)
def test_a_cpu_joins_operations_in_float32(wanted: dict[str, Any], kind: type) -> None:
    made = loaded(decode_state_bytes=2**28, **wanted)
    assert isinstance(made.flow.solver.estimator, kind)
    if made.precision.compute == torch.float32:
        assert np.abs(speak(made) - speak(support.mini_backend())).max() <= SAME


def test_preparing_fills_the_cache(tmp_path: Path) -> None:
    prepare(MODEL, DecodeSettings(decode_backend="onnx", decode_cache_dir=tmp_path / "new"))
    (graph,) = (tmp_path / "new").iterdir()
    assert graph.name.startswith("estimator-")
    written = graph.stat().st_mtime_ns
    loaded(decode_backend="onnx", decode_cache_dir=tmp_path / "new")
    assert graph.stat().st_mtime_ns == written


@pytest.mark.usefixtures("measured")
def test_a_gpu_that_fails_while_the_model_is_loaded_is_replaced_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is simulated."""
    tried = []

    def fail_on_gpus(self: TorchBackend, model: ModelDir, device: torch.device, *arguments: Any) -> None:
        tried.append((device.type, arguments[-1]))
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        whole(self, model, device, *arguments)

    whole = TorchBackend.__init__
    monkeypatch.setattr(TorchBackend, "__init__", fail_on_gpus)
    Cuda(monkeypatch)
    with capture_logs() as lines:
        made = loaded(device="cuda:1", decode_state_bytes=2**28)
    assert tried == [("cuda", 1.0), ("cpu", 0.25)]  # several workers may have lost their GPUs
    assert made.device == CPU
    (line,) = [one for one in lines if one["log_level"] == "error"]
    assert line["event"].startswith("GPU FAILED, DECODING ON THE CPU INSTEAD")
    assert (line["device"], line["reason"]) == ("cuda:1", "CUDA out of memory")


FAILURES = pytest.mark.parametrize("kind", [RuntimeError, OSError, AssertionError, TypeError])


@pytest.mark.usefixtures("measured")
@FAILURES
def test_an_estimator_that_fails_in_any_way_is_replaced_by_pytorch(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(network: EstimatorNetwork) -> Any:
        raise kind("the engine was built for another version\nfurther lines")

    monkeypatch.setattr(loading, "estimator_factory", lambda settings, device: failing)
    with capture_logs() as lines:
        made = loaded(decode_backend="tensorrt", decode_state_bytes=2**28)
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert line["reason"] == "tensorrt failed: the engine was built for another version"
    assert isinstance(made.flow.solver.estimator, JoinedEstimator)


class TensorRtFlags:
    """The part of TensorRT's API that sets precisions; version 11 has no flags for reduced precision."""

    def __init__(self, major: int) -> None:
        self.__version__ = f"{major}.0"
        names = ("TF32", "FP16", "BF16") if major < 11 else ("TF32",)
        self.BuilderFlag = SimpleNamespace(**{name: name for name in names})
        self.flags = {"TF32"}
        self.set_flag, self.clear_flag = self.flags.add, self.flags.discard


def test_the_precision_of_an_engine_follows_the_flags_that_a_version_has() -> None:
    for precision, flags in (("float32", set[str]()), ("float16", {"FP16"}), ("bfloat16", {"BF16"})):
        made = TensorRtFlags(10)
        set_precision(made, made, precision)
        assert made.flags == flags
    made = TensorRtFlags(11)
    set_precision(made, made, "float32")
    assert made.flags == set()
    with pytest.raises(RuntimeError, match=r"TensorRT 11\.0 cannot build in bfloat16; set decode_precision=float32"):
        set_precision(made, made, "bfloat16")


@pytest.mark.usefixtures("measured")
@FAILURES
def test_an_unsupported_setting_is_replaced_and_logged(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **options: Any) -> Any:
        raise kind("no C++ compiler found\nfurther lines")

    monkeypatch.setattr(torch, "compile", lambda function, **options: missing)
    with capture_logs() as lines:
        made = loaded(decode_compile=True, decode_state_bytes=1)
    logged = {line["setting"]: (line["instead"], line["reason"]) for line in lines if "setting" in line}
    assert logged["decode_compile"] == ("plain layers", "no C++ compiler found")
    assert "whole history" in logged["decode_state_bytes"][0]
    assert len(speak(made)) == 90 * 960
    (line,) = [line for line in lines if line["event"] == "decoding"]
    assert (line["device"], line["cuda_graphs"], line["batch"]) == ("cpu", False, 4)


@pytest.mark.usefixtures("measured")
@FAILURES
def test_graphs_are_recorded_on_gpus_alone(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(flow: Flow, most_streams: int, record: object, *parts: object) -> None:
        asked.extend([most_streams] if record else [])
        raise kind("operation not permitted when stream is capturing")

    def refuse_vocoder(vocoder: Vocoder, most_streams: int, chunk_frames: int, record: object) -> None:
        assert (chunk_frames, record) == (50, "graphs")
        asked.append(most_streams)
        raise kind("operation not permitted when stream is capturing")

    monkeypatch.setattr(loading, "use_programs", refuse)
    monkeypatch.setattr(loading, "use_vocoder_programs", refuse_vocoder)
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: "graphs")
    monkeypatch.setattr(loading, "TorchBackend", lambda *arguments: support.mini_backend())
    for device, settings, wanted in (
        ("cpu", {}, []),
        ("cuda", {}, [16, 16]),
        ("cuda", {"decode_max_streams": 3}, [3, 3]),
        ("cuda", {"decode_cuda_graphs": False}, []),
    ):
        asked.clear()
        with capture_logs() as lines:
            chosen = DecodeSettings(
                decode_paged_kernel=False, decode_fused_kernels=False, decode_cpu_step="plain", **settings
            )
            loading._warm(chosen, MODEL, torch.device(device), None)
        assert asked == wanted
        assert [line["setting"] for line in lines] == ["decode_cuda_graphs"] * len(wanted)


def test_a_bare_gpu_machine_can_load_a_backend() -> None:
    """There is torch, but no package that reads settings or writes logs."""
    settings = DecodeSettings(model_dir=MODEL.path, decode_state_bytes=2**26).model_dump(mode="json")
    command = [sys.executable, "-c", BARE_MACHINE, json.dumps(settings)]
    done = subprocess.run(command, cwd=support.ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr


def test_limits_and_precision_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu, simulated = CPU, torch.device("cuda"), None
    assert [precision_name(DecodeSettings(), device) for device in (cpu, gpu)] == ["float32", "bfloat16"]
    assert precision_name(DecodeSettings(decode_precision="float16"), gpu) == "float16"
    assert [largest_batch(DecodeSettings(), device) for device in (cpu, gpu, simulated)] == [4, 16, 16]
    assert largest_batch(DecodeSettings(decode_max_batch_size=3), gpu) == 3
    limits = engine_limits(DecodeSettings(), support.mini_backend())
    assert (limits.max_batch, limits.max_streams, limits.max_queue, limits.admission) == (4, 32, 10, False)
    assert engine_limits(DecodeSettings(decode_admission="on"), support.mini_backend()).admission
    on_gpu = support.mini_backend()
    monkeypatch.setattr(on_gpu, "device", gpu)  # until the test's end: other tests use the backend too
    limits = engine_limits(DecodeSettings(), on_gpu)
    assert (limits.max_batch, limits.max_streams, limits.max_queue, limits.admission) == (16, 128, 64, True)
    assert engine_limits(DecodeSettings(decode_max_streams=5, decode_max_queue=6), on_gpu).max_streams == 5
    limits = engine_limits(DecodeSettings(), SimulatedBackend(CostModel(0, 0, 0), AudioFormat()))
    assert (limits.max_batch, limits.admission) == (16, True)


def test_workers_of_one_machine_share_its_memory() -> None:
    assert memory_share(DecodeSettings(decode_memory_fraction=0.5), CPU) == 0.5
    assert memory_share(DecodeSettings(device="cuda", decode_memory_fraction=0.5), torch.device("cuda")) == 0.5
    assert memory_share(DecodeSettings(device="cuda"), CPU) == 0.25


def test_lack_of_memory_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    block = support.mini_backend().flow.pool.block_bytes
    made = TorchBackend(MODEL, state_bytes=2 * block)
    made.vocoder.context = support.mini_backend().vocoder.context
    for _ in range(2):
        speak(made)
    (line,) = caplog.records
    assert "computes its whole history" in line.message
    assert line.__dict__["setting"] == "decode_state_bytes"
