"""Runs pytest many times without importing the heavy libraries each time: `python -m tests.mutate` starts it.

    python -P runner.py     # in the copied tree; one JSON object {"arguments": [...], "timeout": seconds} per line

Each line of standard input is one run, in a child forked from this process, which has imported the libraries but
nothing of the tree. The answer is a line of JSON: the exit status of pytest (null after the timeout) and its output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import tempfile
from typing import IO

LIBRARIES = ("torch", "numpy", "yaml")
"""None of them starts a thread when it is imported, so that a fork is safe, and none is a plugin of pytest, which warns
of plugins that it did not import itself."""


def run(arguments: list[str], timeout: float, output: IO[bytes]) -> int | None:
    """Run pytest in a child of a session of its own; return its exit status, or None after `timeout` seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        import pytest

        os._exit(int(pytest.main(arguments)))
    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], timeout)
    finally:
        os.close(handle)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that a test has left, or a run without an end
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if ended else None


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.path.insert(0, os.getcwd())
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as output:
            status = run(request["arguments"], request["timeout"], output)
            output.seek(0)
            answer = {"status": status, "output": output.read().decode(errors="replace")[-400:]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
