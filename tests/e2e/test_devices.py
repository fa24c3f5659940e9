"""GPUs that are not there: the CPU stands in, and says so where it is seen."""

from __future__ import annotations

import pytest

from tests.support.mini_stack import MiniStack
from tests.support.spoken import say


@pytest.mark.asyncio(loop_scope="session")
async def test_a_stack_without_its_gpus_speaks_on_the_cpu_and_says_so(mini: MiniStack) -> None:
    spoken = await say(mini.stack, "Hi.", voice="mini_a")
    assert spoken.speech.audio_seconds > 0
    warned = {event.worker: event.detail for event in mini.events if event.kind == "warned"}
    assert {worker: "ON THE CPU INSTEAD" in detail for worker, detail in warned.items()} == {
        "llm": True,
        "decode-1": True,
        "decode-2": True,
    }
    assert ["device=cuda:90" in warned["decode-1"], "device=cuda:91" in warned["decode-2"]] == [True, True]
