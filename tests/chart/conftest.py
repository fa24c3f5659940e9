"""The chart through real helm binaries."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chart import VARIANTS, rendered
from tests.support.helm import VERSIONS, Helm, helm


@pytest.fixture(params=VERSIONS, scope="session")
def each_helm(request: pytest.FixtureRequest) -> Helm:
    return helm(request.param)


@pytest.fixture(scope="session")
def newest_helm() -> Helm:
    return helm(VERSIONS[-1])


@pytest.fixture(params=VARIANTS, scope="session")
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def objects(variant: str) -> list[dict[str, Any]]:
    """Everything one variant installs, with the newest helm."""
    return rendered(VERSIONS[-1], variant)
