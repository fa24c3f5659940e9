"""What stands in for a device that is not there."""

from __future__ import annotations

import pytest
import torch

from services.common.checkpoint.model_dir import ModelDirError
from services.common.engine.device import first_line, on_device, usable_device
from services.common.start_error import StartError
from tests.support.cuda import Cuda
from tests.support.logs import capture_logs

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_gives_way_to_the_cpu_loudly() -> None:
    with capture_logs() as lines:
        made, device = on_device("cuda:7", str, doing="decoding")
    assert (made, device) == ("cpu", CPU)
    (line,) = lines
    assert (line["log_level"], line["device"]) == ("error", "cuda:7")
    assert "DECODING ON THE CPU INSTEAD" in line["event"]
    with capture_logs() as lines:
        assert usable_device("cpu", "decoding") == CPU
    assert not lines


def test_a_name_that_no_device_has_is_a_mistake() -> None:
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
    """Like Triton's: no RuntimeError."""


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, AssertionError, CompilationError])
def test_a_gpu_that_fails_gives_way_and_a_cpu_that_fails_does_not(
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
def test_a_mistake_in_settings_or_checkpoint_is_not_the_gpus(
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
