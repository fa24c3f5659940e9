"""The memory of the machine or container, and budgets that exceed it: they are refused before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gateway.process.budgets import body_budget
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from services.common.checkpoint.model_dir import open_model_dir
from services.common.engine import memory
from services.common.engine.memory import Memory, check_caches, host_memory
from services.common.start_error import StartError
from services.decode.engine.memory import CPU_SHARE, default_budget
from services.decode.loading import load_backend
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings

MIB = 2**20
MODEL = Path(__file__).parents[2] / "data" / "cosyvoice2-mini"
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Replace the system's files by those of a machine of 200 MiB, half of it free; returns how to write more."""
    monkeypatch.setattr(memory, "ROOT", tmp_path)

    def write_file(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write_file(
        "proc/meminfo", f"MemTotal: {200 * 1024} kB\nMemFree: 7 kB\nMemAvailable: {100 * 1024} kB\nHugePages: 0\n"
    )
    return write_file


@pytest.fixture
def small_machine(write: Write) -> None:
    """Leave the files as they are: 100 MiB free."""


@pytest.mark.usefixtures("small_machine")
def test_the_machine_without_cgroups() -> None:
    assert host_memory() == Memory(200 * MIB, 100 * MIB)
    assert default_budget(torch.device("cpu"), 0.5) == CPU_SHARE * 0.5 * 100 * MIB


def test_a_system_that_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert host_memory() == Memory(4 * 2**30, 4 * 2**30)


def test_a_container_of_cgroup_v2(write: Write) -> None:
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", f"{80 * MIB}\n")
    assert host_memory() == Memory(200 * MIB, 100 * MIB)
    write("sys/fs/cgroup/memory.max", f"{90 * MIB}\n")
    assert host_memory() == Memory(90 * MIB, 10 * MIB)
    write("sys/fs/cgroup/memory.stat", f"anon 5\ninactive_file {30 * MIB}\n")  # caches of files: the system frees them
    assert host_memory() == Memory(90 * MIB, 40 * MIB)


def test_a_container_of_cgroup_v1(write: Write) -> None:
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")  # unlimited
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{80 * MIB}\n")
    assert host_memory() == Memory(200 * MIB, 100 * MIB)
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{90 * MIB}\n")
    write("sys/fs/cgroup/memory/memory.stat", f"inactive_file 1\ntotal_inactive_file {20 * MIB}\n")
    assert host_memory() == Memory(90 * MIB, 30 * MIB)


@pytest.mark.parametrize("v1", [False, True])
def test_the_tightest_group_above_counts(write: Write, v1: bool) -> None:
    write("proc/self/cgroup", "3:cpu,memory:/pod/container\n1:name=systemd:/\n" if v1 else "0::/pod/container\n")
    limit, used = ("limit_in_bytes", "usage_in_bytes") if v1 else ("max", "current")
    top = "sys/fs/cgroup/memory/pod" if v1 else "sys/fs/cgroup/pod"
    for place, size in ((top, 50), (f"{top}/container", 70), (f"{top}/other", 3)):
        write(f"{place}/memory.{limit}", f"{size * MIB}\n")
        write(f"{place}/memory.{used}", f"{2 * MIB}\n")
    assert host_memory() == Memory(50 * MIB, 48 * MIB)


async def start_failure(service: Any) -> str:
    try:
        with pytest.raises(StartError) as failure:
            await service.start()
    finally:
        await service.close()
    return str(failure.value)


@pytest.mark.usefixtures("small_machine")
async def test_a_kv_cache_beyond_the_memory_is_refused() -> None:
    message = await start_failure(LlmService(LlmSettings(total_tokens=10**6, voice_cache_bytes=1)))
    assert "no room for 1000000 tokens of K/V cache" in message
    assert "0.10 GiB free" in message
    assert "set LIGHTTTS_TOTAL_TOKENS lower" in message


@pytest.mark.parametrize("tokens", [10**9, 10**12])
async def test_the_list_of_free_blocks_counts_too(write: Write, tokens: int, tmp_path: Path) -> None:
    """Simulated engines keep no K/V, only the list."""
    costs = tmp_path / "costs.json"
    costs.write_text('{"step_s": 0, "step_s_per_sequence": 0, "prefill_s_per_token": 0}')
    settings = LlmSettings(llm_backend="simulated", llm_cost_file=costs, total_tokens=tokens, voice_cache_bytes=1)
    assert "set LIGHTTTS_TOTAL_TOKENS lower" in await start_failure(LlmService(settings))


@pytest.mark.usefixtures("small_machine")
def test_states_of_streams_beyond_the_memory_are_refused() -> None:
    model = open_model_dir(MODEL)
    with pytest.raises(StartError, match=r"streams' states .* set LIGHTTTS_DECODE_STATE_BYTES lower"):
        load_backend(DecodeSettings(decode_state_bytes=110 * MIB), model)
    backend = load_backend(DecodeSettings(decode_state_bytes=80 * MIB), model)
    assert 70 * MIB < backend.counts().budget_bytes <= 80 * MIB


@pytest.mark.usefixtures("small_machine")
async def test_caches_beyond_the_memory_are_refused() -> None:
    for service, setting in (
        (LlmService(LlmSettings(voice_cache_bytes=10**12)), "VOICE_CACHE_BYTES"),
        (DecodeService(DecodeSettings(voice_cache_bytes=10**12)), "VOICE_CACHE_BYTES"),
        (EncodeService(EncodeSettings(cache_bytes=10**12)), "CACHE_BYTES"),
    ):
        assert f"set LIGHTTTS_{setting} lower" in await start_failure(service)
    with pytest.raises(StartError, match="set LIGHTTTS_RESULT_CACHE_BYTES lower"):
        GatewayService(GatewaySettings(result_cache="memory", result_cache_bytes=10**12))
    with pytest.raises(StartError, match="set LIGHTTTS_VOICE_CACHE_BYTES lower"):
        GatewayService(GatewaySettings(voice_cache_bytes=10**12))


def test_the_budget_of_open_requests_fits_beside_the_caches(write: Write) -> None:
    """While requests are decoded, the gateway holds three times their bytes; one key may use half of the budget."""
    write("proc/meminfo", f"MemTotal: {1024 * 1024} kB\nMemAvailable: {1024 * 1024} kB\n")
    assert body_budget(GatewaySettings()) == 256 * MIB
    write("proc/meminfo", f"MemTotal: {512 * 1024} kB\nMemAvailable: {512 * 1024} kB\n")
    assert body_budget(GatewaySettings()) == 128 * MIB
    assert body_budget(GatewaySettings(body_budget_bytes=100 * MIB)) == 100 * MIB
    with pytest.raises(StartError, match="set LIGHTTTS_RESULT_CACHE_BYTES lower"):
        GatewayService(GatewaySettings(result_cache="memory"))
    with pytest.raises(StartError, match="set LIGHTTTS_BODY_BUDGET_BYTES lower"):
        GatewayService(GatewaySettings(body_budget_bytes=256 * MIB))
    with pytest.raises(StartError, match="set LIGHTTTS_MAX_PROMPT_BYTES lower"):
        GatewayService(GatewaySettings(max_prompt_bytes=60 * MIB))
    with pytest.raises(ValueError, match="at least 1048576"):
        GatewaySettings(body_budget_bytes=1000)
    recordings = GatewaySettings(result_cache="memory", result_cache_bytes=200 * MIB)
    assert body_budget(recordings) == (512 - 128 - 200) * MIB // 3


def test_what_the_process_holds_leaves_less_for_caches(write: Write) -> None:
    check_caches({"a": 150 * MIB, "b": 50 * MIB})
    with pytest.raises(StartError, match=r"a, b take 0.20 GiB together, .* set LIGHTTTS_A lower"):
        check_caches({"b": 50 * MIB, "a": 150 * MIB + 1})
    write("proc/self/statm", "9000 1 1 1 1 0 0\n")
    with pytest.raises(StartError, match="set LIGHTTTS_A lower"):
        check_caches({"a": 150 * MIB, "b": 50 * MIB})
