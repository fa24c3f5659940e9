"""Float32 without TF32, whatever was set before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from services.common.engine.precision import forbid_tf32
from tests.support.tf32 import EmulatedTF32, torch_defaults

FINE = torch.tensor([[[1 + 2**-12]]])
"""A number that TF32 cannot represent."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with torch_defaults():
        yield


def as_imported() -> None:
    pass


def faster_products() -> None:
    torch.set_float32_matmul_precision("medium")


def tf32_everywhere() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]


def tf32_by_operation() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]


@pytest.mark.parametrize("before", [as_imported, faster_products, tf32_everywhere, tf32_by_operation])
def test_no_product_and_no_convolution_runs_in_tf32(before: Callable[[], None]) -> None:
    before()
    with EmulatedTF32():
        assert not torch.equal(torch.conv1d(FINE, torch.ones(1, 1, 1)), FINE)
    forbid_tf32()
    with EmulatedTF32():
        assert torch.equal(torch.conv1d(FINE, torch.ones(1, 1, 1)), FINE)
        assert torch.equal(FINE @ torch.ones(1, 1), FINE)
    # torch and its compiler read these, and fail on settings that contradict each other.
    assert torch.get_float32_matmul_precision() == "highest"
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)


def test_the_emulation_rounds_products_where_they_are_allowed_to() -> None:
    faster_products()
    with EmulatedTF32():
        assert not torch.equal(FINE @ torch.ones(1, 1), FINE)
        assert torch.equal(FINE.double() @ torch.ones(1, 1).double(), FINE.double())
