"""Settings that all tests share: torch threads, gRPC's log, the profiles of property tests, and the order of files."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from cli.local import ports

# Each test process chooses free ports from a part of its own: another one would take a port between choice and use.
NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PART = len(ports.FREE_RANGE) // 8
ports.FREE_RANGE = ports.FREE_RANGE[NUMBER % 8 * PART :][:PART]

# One thread, so that figures do not depend on the machine's cores.
torch.set_num_threads(1)

# gRPC's C++ core writes handshake failures and the like to stderr. Tests cause them on purpose. This must be set before
# grpc is imported, and child processes inherit it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# Where these variables are set pytest computes the whole difference of two unequal values. For a second of audio that
# takes longer than a test may take, so one wrong sample would end the run instead of failing its test.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)

# "ci" makes the same examples in every run on every machine. "fuzz" makes new ones in every run, keeps those that fail
# and tries them first the next time (tests/fuzz.py).
# A busy machine draws examples slowly.
slow = [HealthCheck.too_slow]
settings.register_profile("ci", deadline=None, derandomize=True, database=None, suppress_health_check=slow)
FOUND = DirectoryBasedExampleDatabase(Path(__file__).parent.parent / ".hypothesis" / "examples")
settings.register_profile("fuzz", deadline=None, derandomize=False, max_examples=1000, database=FOUND, print_blob=True)
settings.load_profile("ci")


PROCESS_DIED = pytest.StashKey[bool]()


class TogetherByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Run the tests of a file in one process, and those of tests/e2e too, because their files share a running stack."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return TogetherByFile(config, log)


@pytest.fixture(autouse=True)
def default_log() -> Iterator[None]:
    """Commands that run within the test process configure the log; tests after them read debug lines."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


def pytest_collection_finish() -> None:
    """Exclude what exists by now, the libraries and all tests, from garbage collection: it stays until the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController, error: object | None) -> None:
    if error is not None:
        node.config.stash[PROCESS_DIED] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the interpreter free everything at its end; libraries report what is left.

    A run in which a test process died has another exit code than one with failed tests, because tests are missing in it
    (tests/retry.sh).
    """
    gc.unfreeze()
    if session.config.stash.get(PROCESS_DIED, False):
        session.exitstatus = pytest.ExitCode.INTERRUPTED
