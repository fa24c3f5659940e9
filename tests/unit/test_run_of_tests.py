"""`make test` fails when one of its processes dies, for example without memory; `make mutate` knows today's code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.mutate.__main__ import ROOT, read_list

MAKEFILE = Path(__file__).parents[2] / "Makefile"
DIES = "import os\n\ndef test_one():\n    os._exit(3)\n\ndef test_two():\n    pass\n"


def test_a_test_process_that_dies_fails_the_run(tmp_path: Path) -> None:
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    flags = re.findall(r"--(?:dist|max-worker-restart) \w+|--no-loadscope-reorder", recipe[1])
    assert any("restart" in flag for flag in flags), "a new process would take the place of each one that dies"
    (tmp_path / "test_dies.py").write_text(DIES, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the others take seconds to import
    options = [word for flag in flags for word in flag.split()]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "xdist.plugin",
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
    assert done.returncode != 0
    assert re.search(r"crashed|maximum crashed workers reached", done.stdout), done.stdout


def test_every_mutation_fits_the_code() -> None:
    stale = [str(mutation) for mutation in read_list() if not mutation.fits(ROOT)]
    assert not stale, "tests/mutate/mutations.yaml names text that its file no longer has once: correct the entry"
