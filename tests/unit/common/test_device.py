"""The fallback for a device that does not exist or fails."""

from __future__ import annotations

import pytest
import torch

from services.common.checkpoint.model_dir import ModelDirError
from services.common.engine.device import first_line, on_device, usable_device
from services.common.start_error import StartError
from tests.support.cuda import Cuda
from tests.support.logs import capture_logs

CPU = torch.device("cpu")


def test_an_absent_device_is_replaced_by_the_cpu_with_an_error_in_the_log() -> None:
    with capture_logs() as lines:
        made, device = on_device("cuda:7", str, doing="decoding")
    assert (made, device) == ("cpu", CPU)
    (line,) = lines
    assert (line["log_level"], line["device"]) == ("error", "cuda:7")
    assert "DECODING ON THE CPU INSTEAD" in line["event"]
    with capture_logs() as lines:
        assert usable_device("cpu", "decoding") == CPU
    assert not lines


def test_an_invalid_device_name_is_refused() -> None:
    with pytest.raises(StartError, match="LIGHTTTS_DEVICE 'toaster' is not a device; set cpu, cuda"):
        usable_device("toaster", "decoding")


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_gets_its_index_and_its_share_and_is_current(
    monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    cuda = Cuda(monkeypatch)
    with capture_logs() as lines:
        current, device = on_device(name, lambda device: cuda.current, doing="generating", memory_fraction=0.3)
    assert not lines
    assert device == torch.device("cuda", index)
    assert cuda.fractions == {index: 0.3}
    assert (current, cuda.current) == (index, 0)


def test_a_bare_name_means_the_current_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    with torch.cuda.device(2):
        assert usable_device("cuda", "decoding") == torch.device("cuda:2")


class CompilationError(Exception):
    """Like Triton's error, which is not a RuntimeError."""


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, AssertionError, CompilationError])
def test_a_failing_gpu_is_replaced_and_a_failing_cpu_is_not(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    tried = []

    def make(device: torch.device) -> str:
        tried.append(device.type)
        raise kind("the driver is too old\nmore")

    Cuda(monkeypatch)
    with capture_logs() as lines, pytest.raises(kind, match="too old"):
        on_device("cuda:1", make, doing="generating")
    assert tried == ["cuda", "cpu"]
    assert [(line["event"].split(",")[0], line["reason"]) for line in lines] == [
        ("GPU FAILED", "the driver is too old")
    ]


@pytest.mark.parametrize("kind", [StartError, ModelDirError])
def test_an_error_in_settings_or_checkpoint_is_not_taken_for_a_gpu_failure(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    tried = []

    def make(device: torch.device) -> str:
        tried.append(device.type)
        raise kind("flow.pt is damaged")

    Cuda(monkeypatch)
    with capture_logs() as lines, pytest.raises(kind, match="damaged"):
        on_device("cuda:1", make, doing="decoding")
    assert (tried, lines) == (["cuda"], [])


def test_the_first_line_of_a_reason() -> None:
    assert first_line(RuntimeError("a\nb")) == "a"
    assert first_line(RuntimeError()) == "RuntimeError"
