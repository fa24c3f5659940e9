"""Run all property tests on random examples for some minutes: python -m tests.fuzz --minutes 5 [pytest's arguments].

Rounds over all property tests repeat, each with new examples, until the time is up or a test fails. Failing examples
are kept in .hypothesis and tried first the next time. Hypothesis may spend five more minutes on shrinking one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import pytest

PROFILE = "--hypothesis-profile=fuzz"


class Rounds:
    """A pytest plugin that ends the session when the time is up, and collects the tests that failed."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._session: pytest.Session | None = None
        self.runs = 0
        self.failed: set[str] = set()

    @property
    def time_left(self) -> bool:
        return time.monotonic() < self._end

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.runs += report.when == "call"
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Another order in every round: a short run does not always spend its time on the same files.
        places = {path: random.random() for path in {item.path for item in items}}
        items.sort(key=lambda item: places[item.path])

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    def pytest_runtest_logfinish(self) -> None:
        if self._session is not None and not self.time_left:
            self._session.shouldstop = "the time is up"


def main(arguments: list[str]) -> int:
    """Return 0 when no example failed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    options, rest = parser.parse_known_args(arguments)
    rounds = Rounds(options.minutes * 60)
    number = 0
    while rounds.time_left and not rounds.failed:
        number += 1
        code = pytest.main(["-m", "hypothesis and not system", PROFILE, *rest], plugins=[rounds])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
            return int(code)
        if code == pytest.ExitCode.INTERRUPTED and rounds.time_left:
            break  # Ctrl-C
    sys.stdout.write(f"\nfuzz: {rounds.runs} runs of property tests in {number} rounds, {len(rounds.failed)} failed\n")
    if not rounds.failed:
        return 0
    sys.stdout.write("The failing examples are in .hypothesis. Replay them with\n")
    for test in sorted(rounds.failed):
        sys.stdout.write(f"  .venv/bin/python -m pytest {PROFILE} '{test}'\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
