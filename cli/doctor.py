"""`light-tts doctor`: is everything here that the system needs? Each finding says what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli.ports import default_ports, is_free
from services.common.modeldir import ModelDir, ModelDirError, open_model_dir

PACKAGES = ("grpcio", "protobuf", "numpy", "torch", "onnxruntime", "tokenizers", "soundfile", "fastapi", "pydantic")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is what to do when the level is not `ok`."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""


def examine(model_dir: Path) -> Iterator[Finding]:
    """All findings, one after the other, so that slow checks show as they go."""
    yield Finding("ok", f"light-tts {importlib.metadata.version('light-tts')}, Python {platform.python_version()}")
    yield from check_packages()
    yield check_protos()
    yield check_device()
    yield from check_ports()
    yield from check_model(model_dir)


def check_packages() -> Iterator[Finding]:
    """Versions of what the services import."""
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if versions:
        yield Finding("ok", f"packages: {', '.join(versions)}")
    if missing:
        yield Finding("fail", f"packages missing: {', '.join(missing)}", "run `make setup`")


def check_protos() -> Finding:
    try:
        importlib.import_module("lighttts.v1.tts_pb2_grpc")
    except ImportError as error:
        return Finding("fail", f"generated package lighttts does not import ({error})", "run `make protos`")
    except RuntimeError as error:  # the generated code refuses an older grpcio or protobuf than made it
        return Finding("fail", f"generated package lighttts is out of date ({error})", "run `make -B protos`")
    return Finding("ok", "generated package lighttts")


def check_device() -> Finding:
    """What the models would run on."""
    try:
        import torch
    except ImportError as error:
        return Finding("fail", f"torch does not import ({error})", "run `make setup`")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("ok", f"devices: {names}")
    cores = os.cpu_count() or 1
    if cores < 2:
        return Finding("warn", f"devices: CPU only, {cores} core", "speech will pause; use two cores or more")
    return Finding("ok", f"devices: CPU only, {cores} cores (enough for the embedded voice; larger models want a GPU)")


def check_ports(decode_workers: int = 2) -> Iterator[Finding]:
    """Whether `light-tts up` would find its default ports free."""
    named = list(default_ports(decode_workers).named())
    taken = [f"{port} ({name})" for name, port in named if not is_free(port)]
    if taken:
        remedy = "if that is not light-tts itself, stop it or use `light-tts up --ports free`"
        yield Finding("warn", f"ports in use: {', '.join(taken)}", remedy)
    else:
        yield Finding("ok", f"ports free: {', '.join(str(port) for _, port in named)}")


def check_model(path: Path) -> Iterator[Finding]:
    """Opens the directory as the services do, reads every weight file and loads every ONNX graph."""
    try:
        model = open_model_dir(path)
    except ModelDirError as error:
        yield Finding("fail", f"model: {error}", "the embedded voice is models/tiny; name another with --model-dir")
        return
    voices = ", ".join(voice.name for voice in model.card.voices) or "none"
    yield Finding(
        "ok",
        f"model {path}: {model.card.name}, {model.family}, {model.sample_rate} Hz, "
        f"languages {', '.join(model.card.languages)}, bundled voices {voices}",
    )
    yield from _check_weights(model)
    for graph in (model.speech_tokenizer, model.speaker_encoder):
        yield _check_graph(graph)


def _check_weights(model: ModelDir) -> Iterator[Finding]:
    try:
        from services.common.weights import read_weights
    except ImportError as error:
        yield Finding("fail", f"weights cannot be read without torch ({error})", "run `make setup`")
        return
    for part in ("llm", "flow", "hift"):
        file = model.weights_file(part)
        try:
            weights = read_weights(file)
        except ModelDirError as error:
            yield Finding("fail", f"model: {error}", "replace the file; the checkpoint is damaged")
            continue
        parameters = sum(value.numel() for value in weights.values())
        yield Finding("ok", f"{file.name}: {len(weights)} tensors, {parameters / 1e6:.2f} M parameters")


def _check_graph(path: Path) -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        return Finding("fail", f"onnxruntime does not import ({error})", "run `make setup`")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would write its own error beside ours
    open_session: Callable[..., object] = onnxruntime.InferenceSession
    try:
        open_session(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises types of its own without a common base
        return Finding("fail", f"{path.name} is no readable ONNX graph ({error})", "fetch the checkpoint again")
    return Finding("ok", f"{path.name}: readable")
