"""How an llm service starts, which settings prevent it, and the effects of a dead engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.checkpoint.model_dir import ModelDirError
from services.common.pool import open_channel
from services.common.server import LIVENESS, ServiceServer
from services.common.start_error import StartError
from services.llm.engine.scheduler import Scheduler
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.support.decode_worker import StartWorker
from tests.support.llm import ROOT, TEXT, TINY, all_free, llm_service, metric, refusal, starting, text_message, until

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def start_failure(kind: type[Exception], **options: Any) -> str:
    settings = LlmSettings(port=0, **options)
    server = ServiceServer(LlmService(settings), settings)
    try:
        with pytest.raises(kind) as failure:
            await server.start()
    finally:
        await server.close()
    return str(failure.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total_tokens": 64, "max_request_tokens": 128}, "max_request_tokens 128 must fit into total_tokens 64"),
        ({"device": "toaster"}, "LIGHTTTS_DEVICE 'toaster' is not a device"),
        ({"decode_target": "somewhere"}, "LIGHTTTS_DECODE_TARGET"),
        ({"encode_target": "somewhere"}, "LIGHTTTS_ENCODE_TARGET"),
        ({"llm_backend": "simulated"}, "set LIGHTTTS_LLM_COST_FILE"),
        ({"total_tokens": 10**12}, "set LIGHTTTS_TOTAL_TOKENS lower"),
    ],
)
async def test_settings_that_cannot_work_name_the_variable(options: dict[str, Any], words: str) -> None:
    assert words in await start_failure(StartError, **options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must have the form"),
        ("[]", "must have the form"),
        ('{"lora_info": [{"style_name": "a"}]}', "'llm_path'"),
        ('{"lora_info": [{"style_name": "", "llm_path": "llm.pt"}]}', "not empty"),
        ('{"lora_info": [{"style_name": "a", "llm_path": "missing.pt"}]}', "do not exist"),
        (
            '{"lora_info": [{"style_name": "a", "llm_path": "llm.pt"}, {"style_name": "a", "llm_path": "llm.pt"}]}',
            "once",
        ),
        ('{"lora_info": [{"style_name": "a", "llm_path": "flow.pt"}]}', "flow.pt does not fit"),
    ],
)
async def test_a_wrong_style_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = model_with_styles(tmp_path, text)
    message = await start_failure(ModelDirError, model_dir=path)
    assert words in message
    assert str(path) in message


def model_with_styles(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for file in TINY.iterdir():
        (path / file.name).symlink_to(file)
    (path / "style_config.json").write_text(text, encoding="utf-8")
    return path


async def test_an_entry_named_default_replaces_the_directorys_checkpoint(worker: StartWorker, tmp_path: Path) -> None:
    entries = [{"style_name": "default", "llm_path": str(TINY / "llm.pt")}]
    path = model_with_styles(tmp_path, json.dumps({"lora_info": entries}))
    (path / "llm.pt").unlink()
    (path / "llm.pt").write_bytes(b"not a checkpoint")
    decode = await worker()
    async with llm_service(tmp_path, decode.address, model_dir=path, llm_backend="torch") as llm:
        assert (await llm.speak(TEXT[:4])).raw_ids


@pytest.mark.parametrize(
    "options",
    [
        {"llm_dtype": "bfloat16"},
        {"llm_int8_weights": True, "llm_int8_kv": True},
        {"llm_order": "fifo", "steps_per_turn": 4, "admission_interval": 3},
    ],
)
async def test_every_way_to_run_works(worker: StartWorker, tmp_path: Path, options: dict[str, Any]) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address, llm_backend="torch", **options) as llm:
        spoken = await llm.speak(TEXT[:4])
        await all_free()
    assert spoken.raw_ids
    assert spoken.done is not None


async def test_statistics_are_logged(worker: StartWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decode, lines = await worker(), ""

    def logged() -> bool:
        nonlocal lines
        lines += capsys.readouterr().out
        found = [line for line in lines.splitlines() if "statistics" in line]
        return any("tokens_per_second" in line and "kv_blocks_used" in line for line in found)

    async with llm_service(tmp_path, decode.address, stats_interval_seconds=0.01) as llm:
        await llm.speak()
        await until(logged)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_engine_takes_the_service_out_of_rotation(
    worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = await worker()
    async with llm_service(tmp_path, decode.address) as llm:
        assert llm.server.service.alive  # type: ignore[attr-defined]

        def broken(self: Scheduler, num_steps: int = 1) -> list[Any]:
            raise ZeroDivisionError("a defect of the loop itself")

        monkeypatch.setattr(Scheduler, "schedule", broken)
        await asyncio.wait_for(llm.server.failed.wait(), 400)
        code, error = await refusal(llm.generate(starting(), text_message(TEXT)))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "another worker" in error.message
        async with open_channel(llm.server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for name in (LIVENESS, "lighttts.v1.Llm"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == NOT_SERVING
        await until(lambda: metric("lighttts_ready") == 0)


DYING = """
import sys
from services.common.server import run
from services.common.settings import ServiceSettings

class Dying:
    name, rpc_services, asked = "dying", (), 0
    def register(self, server): ...
    async def start(self): ...
    async def drain(self): ...
    async def close(self): ...
    @property
    def alive(self):
        self.asked += 1
        return self.asked < 3

sys.exit(run(Dying, ServiceSettings(log_format="plain"), "dying"))
"""


def test_a_process_whose_engine_died_ends_with_an_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DYING], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 1
    assert "the dying engine's thread has ended" in done.stdout + done.stderr
