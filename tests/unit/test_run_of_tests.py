"""`make test` fails when one of its processes dies, failed tests get one more try; `make mutate` knows today's code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutate.__main__ import ROOT, read_list

MAKEFILE = ROOT / "Makefile"
RETRY = ROOT / "tests" / "retry.sh"
ONLY_FAILED = "-q --last-failed --last-failed-no-failures none --maxfail 1"
DIES = "import os\n\ndef test_one():\n    os._exit(3)\n\ndef test_two():\n    pass\n"


def test_a_test_process_that_dies_fails_the_run(tmp_path: Path) -> None:
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    flags = re.findall(r"--(?:dist|max-worker-restart) \w+|--no-loadscope-reorder", recipe[1])
    assert any("restart" in flag for flag in flags), "a new process would take the place of each one that dies"
    (tmp_path / "test_dies.py").write_text(DIES, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(ROOT),
    }  # other plugins take seconds to import
    options = [word for flag in flags for word in flag.split()]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "xdist.plugin",
            "-p",
            "tests.conftest",
            "-n",
            "1",
            *options,
            "-p",
            "no:cacheprovider",
            "test_dies.py",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.INTERRUPTED, (
        "as an incomplete run, whose failed tests alone say too little"
    )
    assert re.search(r"crashed|maximum crashed workers reached", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("times", "codes", "calls", "code"),
    [
        (2, [0], ["-q"], 0),
        (2, [1, 0], ["-q", ONLY_FAILED], 0),
        (2, [1, 1], ["-q", ONLY_FAILED], 1),
        (0, [1], ["-q"], 1),
        (2, [2], ["-q"], 2),
        (2, [5], ["-q"], 5),
    ],
    ids=["passed", "passed in a new process", "failed again", "not asked for", "incomplete", "no tests"],
)
def test_only_failed_tests_get_one_more_try(
    tmp_path: Path, times: int, codes: list[int], calls: list[str], code: int
) -> None:
    for turn, each in enumerate(codes):
        (tmp_path / f"code{turn}").write_text(str(each), encoding="utf-8")
    # In place of pytest: it notes its arguments and ends with the code of its turn.
    script = 'turn=$(cat calls 2>/dev/null | wc -l); echo "$*" >> calls; exit "$(cat code$turn)"'
    done = subprocess.run([RETRY, str(times), "sh", "-c", script, "sh", "-q"], cwd=tmp_path, check=False)
    assert done.returncode == code
    assert (tmp_path / "calls").read_text(encoding="utf-8").splitlines() == calls


def test_every_mutation_fits_the_code() -> None:
    stale = [str(mutation) for mutation in read_list() if not mutation.fits(ROOT)]
    assert not stale, "tests/mutate/mutations.yaml names text that its file no longer has once: correct the entry"
