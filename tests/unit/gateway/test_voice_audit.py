"""The audit of voices in a directory and in Redis, and what a registration must state about consent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from cli.app import app
from gateway.auth.caller import Caller, bind_source
from gateway.redis_client import connect
from gateway.voices.audit import AUDIT_FOLDER, Audit, AuditTrail, DirectoryTrail, RedisTrail
from gateway.voices.consent import Policy, Statement
from services.common.errors import InvalidInput, NotFound, Unavailable
from tests.support.redis_server import redis_server

NOW = 1_795_000_000.0
"""2026-11-18, 11:06:40 UTC."""
ADA = Caller(name="key-1", owner="team-a")
FULL = Statement(given=True, given_by="Ada Lovelace", given_on="2026-11-17", recording="cons_1")


@pytest.fixture(params=["directory", pytest.param("redis", marks=pytest.mark.system)])
async def trails(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[AuditTrail, AuditTrail, list[str]]]:
    """Two gateways' views of one trail, and the options with which the command reads it."""
    if request.param == "directory":
        folder = tmp_path / AUDIT_FOLDER
        yield DirectoryTrail(folder), DirectoryTrail(folder), ["--voices-dir", str(tmp_path)]
        return
    async with redis_server() as url, contextlib.AsyncExitStack() as clients:
        client = connect(url)
        clients.push_async_callback(client.aclose)
        options = ["--store", "redis", "--redis-url", url, "--redis-prefix", "test:"]
        yield RedisTrail(client, "test:"), RedisTrail(client, "test:"), options


async def test_gateways_share_a_trail_and_the_command_reads_it(trails: Any) -> None:
    one, other, options = trails
    bind_source("10.0.0.7", "203.0.113.9")
    for trail, operation, at in ((one, "voice created", NOW), (other, "voice deleted", NOW + 1)):
        about = {"voice": "v1", "name": "Mine", **FULL.facts()}
        with structlog.testing.capture_logs() as lines:
            async with Audit(trail, partial(float, at)).operation(operation, ADA, about, bytes=5):
                assert len(await one.entries()) == int(at - NOW) + 1, "before the operation"
                assert not lines
        (line,) = lines
        assert (line["event"], line["key"], line["source"], line["bytes"]) == (
            *(operation, "key-1"),
            *("10.0.0.7 for 203.0.113.9", 5),
        )
    entries = await other.entries()
    assert [entry["operation"] for entry in entries] == ["voice created", "voice deleted"]
    assert entries[0]["time"] == "2026-11-18T11:06:40.000+00:00"
    assert (entries[0]["owner"], entries[0]["consent_given_by"], entries[0]["consent"]) == (
        "team-a",
        "Ada Lovelace",
        "cons_1",
    )
    # The command runs an event loop of its own.
    shown = await run(["--json", *options])
    assert [json.loads(line) for line in shown.splitlines()] == entries
    assert await run(["--json", "--voice", "another", *options]) == ""
    table = await run(["--voice", "Mine", *options])
    for word in ("2026-11-18T11:06:40", "voice deleted", "key-1", "203.0.113.9", "Ada Lovelace", "cons_1"):
        assert word in table, word


async def run(options: list[str]) -> str:
    """Return what `light-tts voices audit` prints."""
    runner = CliRunner()
    result = await asyncio.to_thread(runner.invoke, app, ["voices", "audit", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_without_a_trail(tmp_path: Path) -> None:
    runner = CliRunner()
    assert "no entries" in runner.invoke(app, ["voices", "audit", "--voices-dir", str(tmp_path)]).stdout
    for options, words in {
        ("--voices-dir", str(tmp_path / "none")): "no directory",
        ("--store", "file"): "directory or redis",
        ("--store", "redis"): "--redis-url",
    }.items():
        failed = runner.invoke(app, ["voices", "audit", *options])
        assert failed.exit_code == 1
        assert words in failed.output


def cut_off(folder: Path) -> None:
    """Add a part of a line."""
    (written,) = folder.iterdir()
    assert written.stat().st_mode & 0o077 == 0, "for the gateway alone"
    written.write_text(written.read_text() + '{"time": "2026-')


async def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    trail = DirectoryTrail(tmp_path)
    await trail.append({"time": "2026-11-18T11:06:40", "operation": "voice created"})
    cut_off(tmp_path)
    assert [entry["operation"] for entry in await trail.entries()] == ["voice created"]


async def test_without_an_entry_there_is_no_operation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    audit = Audit(DirectoryTrail(tmp_path / "file" / "folder"))
    begun = False
    with pytest.raises(Unavailable, match="voice directory"):
        async with audit.operation("voice created", ADA, {}):
            begun = True
    assert not begun


def test_a_refusal_is_one_line() -> None:
    audit = Audit(DirectoryTrail(Path(os.devnull)))
    refusal = NotFound("no such voice", field="voice")
    with structlog.testing.capture_logs() as lines, pytest.raises(NotFound), audit.refusals("refused", ADA, "x" * 999):
        raise refusal
    (line,) = lines
    assert (line["key"], line["reason"], line["field"], len(line["name"])) == ("key-1", "NOT_FOUND", "voice", 64)


@pytest.mark.parametrize(
    ("policy", "statement", "field"),
    [
        ("none", Statement(given=True), None),
        ("none", Statement(given=False), "consent"),
        ("none", Statement(given=True, given_on="yesterday"), "consent_given_on"),
        ("attestation", Statement(given=True), "consent_given_by"),
        ("attestation", Statement(given=True, given_by="  ", given_on="2026-11-17"), "consent_given_by"),
        ("attestation", Statement(given=True, given_by="Ada"), "consent_given_on"),
        ("attestation", Statement(given=True, given_by="Ada", given_on="2026-11-17"), None),
        ("attestation", Statement(given=True, given_by="Ada", given_on="2026-11-20"), "consent_given_on"),
        ("attestation", Statement(given=True, given_by="Ada", given_on="2026-11-19"), None),
        ("attestation", Statement(given=True, given_by="Ada", given_on="20261117"), "consent_given_on"),
        ("attestation", Statement(given=True, given_by="Ada", given_on="2026-02-30"), "consent_given_on"),
        ("attestation", Statement(given=True, given_by="Ada\nBob", given_on="2026-11-17"), "consent_given_by"),
        ("attestation", Statement(given=True, given_by="A" * 201, given_on="2026-11-17"), "consent_given_by"),
        ("recording", Statement(given=True, given_by="Ada", given_on="2026-11-17"), "consent_id"),
        ("recording", FULL, None),
    ],
)
def test_the_policy_names_what_is_missing(policy: Policy, statement: Statement, field: str | None) -> None:
    if field is None:
        statement.check(policy, NOW)
        return
    with pytest.raises(InvalidInput, match=field) as refusal:
        statement.check(policy, NOW)
    assert refusal.value.field == f"header.{field}"
