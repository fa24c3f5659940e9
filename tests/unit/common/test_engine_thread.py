"""The thread of an engine."""

from __future__ import annotations

import pytest
import torch

from services.common.engine.thread import EngineThread, current_device
from tests.support.cuda import Cuda


@pytest.mark.parametrize(("name", "index"), [("cuda:1", 1), ("cpu", 0), (None, 0)])
def test_its_device_is_current_in_turns_and_commands(
    monkeypatch: pytest.MonkeyPatch, name: str | None, index: int
) -> None:
    cuda = Cuda(monkeypatch)
    seen: list[int] = []

    def turn() -> bool:
        seen.append(cuda.current)
        thread.close()
        return False

    device = None if name is None else torch.device(name)
    thread = EngineThread("engine", turn, lambda: None, 0.01, device)
    thread.post(lambda: seen.append(cuda.current))
    thread.start()
    thread._thread.join()
    assert seen == [index, index]
    assert cuda.current == 0  # the caller's own thread keeps its device


def test_a_device_is_current_within_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    with current_device(torch.device("cuda:2")):
        with current_device(torch.device("cpu")), current_device(torch.device("cuda:1")):
            assert cuda.current == 1
        assert cuda.current == 2
    assert cuda.current == 0
