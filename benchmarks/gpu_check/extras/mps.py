"""NVIDIA's Multi-Process Service (MPS): llm and decode send their kernels to the card together, not in turns.

Without it, the card runs one process at a time and switches between them. The daemon serves processes that start after
it and have its folder in their environment; it changes no setting of the card, and ends with this step.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.stack import LOADS, TINY_LOADS, report_load, with_services
from cli.bench.apis import Api
from cli.bench.generator import offer
from cli.bench.load import Load
from cli.bench.report import report
from cli.local.stack import Stack

CONTROL = "nvidia-cuda-mps-control"
FOLDERS = {"CUDA_MPS_PIPE_DIRECTORY": "pipe", "CUDA_MPS_LOG_DIRECTORY": "log"}
"""Environment variables of the daemon and of its clients, and folders for them."""
COMMAND_S = 10.0
"""Time for the daemon to start or to answer."""
STREAMS = (1, 16)
"""Closed loads, out of those of the step `stack`, whose figures are those without MPS."""


class MpsUnavailable(RuntimeError):
    """MPS cannot be used here; the message says why."""


def mps(check: Check) -> None:
    """Offer some of the loads of `stack` again while the services share the card by MPS."""
    try:
        with mps_daemon() as servers:
            with_services(check, "mps", 1, lambda check, services, api: _loads(check, services, api, servers))
    except MpsUnavailable as error:
        check.report("MPS", f"not available: {error}")


class Servers:
    """The daemon's server processes: it starts one when the first client connects."""

    def now(self) -> list[str]:
        """Return their process ids. Raises MpsUnavailable if the daemon does not answer."""
        return _command("get_server_list").split()


async def _loads(check: Check, services: Stack, api: Api, servers: Servers) -> None:
    found = servers.now()
    check.expect("the services use MPS", bool(found), f"servers: {', '.join(found) or 'none'}")
    for load in loads(tiny=not check.on_gpu):
        report_load(check, report(await offer(api, load)))


def loads(*, tiny: bool) -> list[Load]:
    """The loads of this step."""
    return [TINY_LOADS[0]] if tiny else [load for load in LOADS if load.streams in STREAMS]


@contextlib.contextmanager
def mps_daemon() -> Iterator[Servers]:
    """Start the daemon; processes that start inside use it. Raises MpsUnavailable without it or if it fails."""
    if shutil.which(CONTROL) is None:
        raise MpsUnavailable(f"{CONTROL} is not installed")
    before = {name: os.environ.get(name) for name in FOLDERS}
    with tempfile.TemporaryDirectory(prefix="gpu-check-mps-") as scratch:
        for name, folder in FOLDERS.items():
            Path(scratch, folder).mkdir()
            os.environ[name] = str(Path(scratch, folder))
        try:
            _run([CONTROL, "-d"])
            try:
                yield Servers()
            finally:
                with contextlib.suppress(MpsUnavailable):  # it has ended, or the scratch folder is all that it had
                    _command("quit")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _command(text: str) -> str:
    """Return the daemon's answer to a command."""
    return _run([CONTROL], text + "\n")


def _run(command: list[str], given: str = "") -> str:
    # Output goes to a file: the daemon keeps the descriptors that it inherits, and a pipe would never end.
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                command, input=given, stdout=output, stderr=output, text=True, timeout=COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MpsUnavailable(f"{CONTROL} failed ({error})") from error
        output.seek(0)
        said = output.read().strip()
    if done.returncode:
        raise MpsUnavailable(f"{CONTROL} ended with status {done.returncode} ({said})")
    return said
