"""`light-tts doctor`: checks everything the system needs; each finding has a remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from cli.console import package_version
from cli.finding import Finding
from cli.local.ports import default_ports, is_free
from cli.model.checkpoint import examine_checkpoint

PACKAGES = ("grpcio", "protobuf", "numpy", "torch", "onnxruntime", "tokenizers", "soundfile", "fastapi", "pydantic")


def examine(model_dir: Path) -> Iterator[Finding]:
    """Yield the findings one by one, so that each is shown while slower checks run."""
    yield Finding("ok", f"light-tts {package_version()}, Python {platform.python_version()}")
    yield from check_packages()
    yield check_protos()
    yield check_device()
    yield from check_ports()
    yield from examine_checkpoint(model_dir)


def check_packages() -> Iterator[Finding]:
    """Report the versions of the packages that the services import."""
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
    except RuntimeError as error:  # generated code refuses a grpcio or protobuf older than its generator
        return Finding("fail", f"generated package lighttts is out of date ({error})", "run `make -B protos`")
    return Finding("ok", "generated package lighttts")


def check_device() -> Finding:
    """Report the devices for the models."""
    try:
        import torch
    except ImportError as error:
        return Finding("fail", f"torch does not import ({error})", "run `make setup`")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("ok", f"devices: {names}")
    cores = os.cpu_count() or 1
    if cores < 2:
        return Finding("warn", f"devices: CPU only, {cores} core", "audio will have pauses; use two cores or more")
    return Finding("ok", f"devices: CPU only, {cores} cores (enough for the embedded voice; larger models need a GPU)")


def check_ports(decode_workers: int = 2) -> Iterator[Finding]:
    """Report whether the default ports of `light-tts up` are free."""
    named = list(default_ports(decode_workers).named())
    taken = [f"{port} ({name})" for name, port in named if not is_free(port)]
    if taken:
        remedy = "if another program uses them, stop it or run `light-tts up --ports free`"
        yield Finding("warn", f"ports in use: {', '.join(taken)}", remedy)
    else:
        yield Finding("ok", f"ports free: {', '.join(str(port) for _, port in named)}")
