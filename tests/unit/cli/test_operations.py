"""The operator's guide names settings that exist, and the systemd unit a command line that does."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import typer

from cli.app import app
from services.llm.settings import LlmSettings
from tests.support.helm import ROOT
from tools.chart.schema import SERVICES

GUIDE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
OLDER = re.findall(
    r"\w+",
    """
    batch_max_tokens cache_capacity cache_reserved_ratio data_type decode_max_batch_size decode_paral_num
    decode_process_num disable_cudagraph disable_log_stats encode_paral_num encode_process_num gpt_paral_num
    gpt_paral_step_num graph_max_batch_size graph_max_len_in_batch health_monitor host httpserver_workers load_jit
    load_trt load_way log_stats_interval max_req_total_len max_total_token_num model_dir port router_max_new_token_len
    router_max_wait_tokens router_token_ratio running_max_req_size sample_close tokenizer_mode trust_remote_code
    zmq_mode
    """,
)
"""Every option of LightTTS's command line but the modes, which are named by their values."""
TUNE = GUIDE.partition("\n## Tune\n")[2].partition("\n## ")[0]


def test_the_settings_of_the_guide_exist() -> None:
    known = {field for settings in SERVICES.values() for field in settings.model_fields}
    rows = [line.split("|") for line in TUNE.splitlines() if line.startswith("| `")]
    here = " ".join(row[2] for row in rows) + TUNE.rpartition("|\n")[2]
    assert not set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", here)) - known


def test_every_name_of_the_older_guide_is_explained() -> None:
    older = re.findall(r"\[(\w+)\]", " ".join(str(field.description) for field in LlmSettings.model_fields.values()))
    assert older
    names = set(re.findall(r"\w+", " ".join(row.split("|")[1] for row in TUNE.splitlines() if row.startswith("| `"))))
    assert names >= {*older, *OLDER}


def test_links_within_the_repository_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", GUIDE)
    assert targets
    assert all((ROOT / "docs" / target).exists() for target in targets)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian package systemd)")
def test_the_systemd_unit_is_hardened() -> None:
    unit = ROOT / "deploy" / "light-tts.service"
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_systemd_unit_starts_a_command_that_exists() -> None:
    unit = (ROOT / "deploy" / "light-tts.service").read_text(encoding="utf-8")
    start = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit, re.MULTILINE)
    assert start is not None
    program, command, *arguments = shlex.split(start[1].replace("\\\n", " "))
    assert program.endswith("/light-tts")
    group: Any = typer.main.get_command(app)
    context = group.make_context("light-tts", [command, *arguments], resilient_parsing=True)
    _, up, rest = group.resolve_command(context, [command, *arguments])
    assert up.make_context(command, rest).params["devices"]
