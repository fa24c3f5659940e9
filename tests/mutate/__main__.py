"""`python -m tests.mutate`: breaks one line at a time and reports which tests notice it.

The mutations are data: `mutations.yaml` lists the file, the text to replace, its replacement, and the tests that must
fail. Each mutation is applied to a copy of the tree, in which only these tests run; they must pass without it. Exit
status 0 when at least 95 % are caught; 1 when fewer are, or when a mutation no longer fits the code; 2 for wrong
arguments. Add a mutation for each fault that was found in use.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).parent / "mutations.yaml"
COPIED = ("services", "gateway", "cli", "benchmarks", "tools", "tests", "pyproject.toml")
LINKED = ("models", "lighttts", "protos", "helm", "docs", "tests/data")
TARGET = 0.95
"""Smallest share of caught mutations."""
TIMEOUT_S = 600.0
"""Longest time of the tests without a mutation."""
HANG, SHORTEST_HANG_S = 5.0, 30.0
"""A mutation whose tests run this many times as long as without it, and longer than this, counts as caught: it made
something hang."""
_FAILED = 1
"""pytest's exit status when tests failed; other statuses (no tests, a usage error) are faults of the list."""


@dataclass(frozen=True)
class Mutation:
    """Replace `old`, which stands once in `file`, by `new`; `tests` are arguments of pytest."""

    file: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}"

    def fits(self, root: Path) -> bool:
        path = root / self.file
        return path.is_file() and path.read_text(encoding="utf-8").count(self.old) == 1 and self.old != self.new


def read_list(path: Path = LIST) -> list[Mutation]:
    """Read the mutations. Raises TypeError for an entry with other keys."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Mutation(group["file"], str(old), str(new), tests)
        for group in groups
        for tests, changes in group["tests"].items()
        for old, new in changes
    ]


def copy_tree(target: Path) -> None:
    """Copy what the tests need; large data is linked."""
    ignored = shutil.ignore_patterns("__pycache__", "data")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, target / name, ignore=ignored if name == "tests" else shutil.ignore_patterns("__py*")
            )
        else:
            shutil.copy(source, target / name)
    for name in LINKED:
        (target / name).symlink_to(ROOT / name)


class Runner:
    """A process that has imported the libraries and forks for each run of pytest in the copied tree."""

    def __init__(self, tree: Path) -> None:
        self.output = ""
        """The end of the last run's output."""
        own = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("runner.py"))],
            cwd=tree,
            env={**os.environ, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def passes(self, tests: str, timeout: float) -> bool:
        """Run tests in the copy; a run without an end does not pass. Raises RuntimeError if they cannot run."""
        arguments = ["-p", "no:cacheprovider", "-q", "-x", *shlex.split(tests)]
        request = {"arguments": arguments, "timeout": timeout}
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the runner has no pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"status": -1, "output": "the runner ended"}')
        self.output = answer["output"]
        if answer["status"] not in (0, _FAILED, None):
            raise RuntimeError(f"its tests do not run (status {answer['status']}): {self.output}")
        return bool(answer["status"] == 0)


def caught(mutation: Mutation, tree: Path, runner: Runner, timeout: float) -> bool:
    """Apply the mutation to the copy, run its tests, undo it. Raises RuntimeError if they cannot run."""
    path = tree / mutation.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return not runner.passes(mutation.tests, timeout)
    finally:
        path.write_text(whole, encoding="utf-8")


def run(mutations: list[Mutation], tree: Path, runner: Runner) -> Iterator[tuple[Mutation, str]]:
    """Yield each mutation with `caught`, `SURVIVED` or what is wrong with its entry."""
    sound: dict[str, bool] = {}
    hang: dict[str, float] = {}
    for mutation in mutations:
        if not mutation.fits(tree):
            yield mutation, "STALE: the text does not stand exactly once in the file"
            continue
        try:
            if mutation.tests not in sound:
                began = time.monotonic()
                sound[mutation.tests] = runner.passes(mutation.tests, TIMEOUT_S)
                hang[mutation.tests] = max(SHORTEST_HANG_S, HANG * (time.monotonic() - began))
                if not sound[mutation.tests]:
                    sys.stderr.write(f"{mutation.tests} fails without a mutation:\n{runner.output}\n")
            if not sound[mutation.tests]:
                yield mutation, "STALE: its tests fail without it"
                continue
            yield mutation, "caught" if caught(mutation, tree, runner, hang[mutation.tests]) else "SURVIVED"
        except RuntimeError as error:
            yield mutation, f"STALE: {error}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="run the mutations whose line contains this text")
    parser.add_argument("--first", type=int, default=1, help="begin with this one, to go on after an interruption")
    parser.add_argument("--list", action="store_true", help="print the mutations and whether they fit the code")
    options = parser.parse_args(arguments)
    chosen = [mutation for mutation in read_list() if options.only in str(mutation)][options.first - 1 :]
    if not chosen:
        sys.stderr.write(f"no mutation contains {options.only!r}\n")
        return 2
    if options.list:
        for mutation in chosen:
            sys.stdout.write(f"{'fits ' if mutation.fits(ROOT) else 'STALE'} {mutation}\n")
        return 0 if all(mutation.fits(ROOT) for mutation in chosen) else 1
    results: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy_tree(Path(folder))
        with Runner(Path(folder)) as runner:
            for mutation, result in run(chosen, Path(folder), runner):
                results.append(result)
                sys.stdout.write(f"{time.strftime('%H:%M:%S')} {result:<8} {mutation}\n")
                sys.stdout.flush()
    share = results.count("caught") / len(results)
    sys.stdout.write(f"{results.count('caught')} of {len(results)} mutations were caught ({share:.0%})\n")
    stale = any(result.startswith("STALE") for result in results)
    return 0 if share >= TARGET and not stale else 1


if __name__ == "__main__":
    sys.exit(main())
