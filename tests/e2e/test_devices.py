"""GPUs that are not there: the CPU stands in, and says so where it is seen."""

from __future__ import annotations

from pathlib import Path

from cli.local.process import WorkerEvent
from cli.local.stack import Stack, StackConfig
from tests.support.spoken import say


async def test_a_stack_without_its_gpus_speaks_on_the_cpu_and_says_so(tmp_path: Path) -> None:
    events: list[WorkerEvent] = []
    config = StackConfig(decode_workers=2, devices=("cuda:90", "cuda:91"), log_dir=tmp_path, restart_dead=False)
    async with Stack(config, events.append) as stack:
        spoken = await say(stack, "Good morning, Alice.")
    assert spoken.speech.audio_seconds > 0.5
    warned = {event.worker: event.detail for event in events if event.kind == "warned"}
    assert {worker: "ON THE CPU INSTEAD" in detail for worker, detail in warned.items()} == {
        "llm": True,
        "decode-1": True,
        "decode-2": True,
    }
    assert ["device=cuda:90" in warned["decode-1"], "device=cuda:91" in warned["decode-2"]] == [True, True]
