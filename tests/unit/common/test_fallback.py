"""What stands in for a device that is not there."""

from __future__ import annotations

import pytest
import torch
from structlog.testing import capture_logs

from services.common import fallback
from services.common.fallback import first_line, on_device, usable_device
from services.common.server import StartError

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
    with pytest.raises(StartError, match="LIGHTTTS_DEVICE 'toaster' is no device; set cpu, cuda"):
        usable_device("toaster", "decoding")


def test_a_gpu_that_fails_gives_way_and_a_cpu_that_fails_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, tried = [], []

    def make(device: torch.device) -> str:
        tried.append(device.type)
        raise RuntimeError("the driver is too old\nmore")

    monkeypatch.setattr(fallback, "usable_device", lambda name, doing: torch.device(name))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.append((share, str(device)))
    )
    with capture_logs() as lines, pytest.raises(RuntimeError, match="too old"):
        on_device("cuda:1", make, doing="generating", memory_fraction=0.3)
    assert tried == ["cuda", "cpu"]
    assert shares == [(0.3, "cuda:1")]
    assert [(line["event"].split(",")[0], line["reason"]) for line in lines] == [
        ("GPU FAILED", "the driver is too old")
    ]


def test_the_first_line_of_a_reason() -> None:
    assert first_line(RuntimeError("a\nb")) == "a"
    assert first_line(RuntimeError()) == "RuntimeError"
