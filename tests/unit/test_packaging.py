"""What the package, the chart and the images have in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_PYTHON = re.compile(r"""\bpython\b[\s"',]*(-P[\s"',]*)?-m[\s"',]*(?:services|gateway)\b""")


@pytest.mark.parametrize("folder", ["Dockerfiles", "helm/templates"])
def test_services_import_nothing_from_their_current_folder(folder: str) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / folder).iterdir() if path.is_file()}
    commands = [(path.name, match) for path, text in texts.items() for match in RUN_PYTHON.finditer(text)]
    assert len(commands) >= 4
    assert not [f"{name}: {match[0]}" for name, match in commands if match[1] is None]
