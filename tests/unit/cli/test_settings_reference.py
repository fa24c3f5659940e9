"""The committed page of settings agrees with the settings classes."""

from __future__ import annotations

from tests.support.helm import ROOT
from tools.chart.schema import SERVICES
from tools.settings_reference import reference


def test_the_committed_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == reference(), "run: make format"


def test_every_setting_is_on_it() -> None:
    page = reference()
    assert all(f"| `{field}`" in page for settings in SERVICES.values() for field in settings.model_fields)
