"""Logs of a separate process: every line is JSON with service, worker and request id."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
HEAD = """
import asyncio, logging, threading
import structlog
from services.common.telemetry import bind_request_id, configure_logging, current_request_id, new_request_id
configure_logging("llm", "llm-0", "{level}", "{style}")
log = structlog.get_logger("ours")
"""


def logged(script: str, level: str = "info", style: str = "json") -> str:
    line = [sys.executable, "-c", HEAD.format(level=level, style=style) + script]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
    assert done.stdout == ""
    return done.stderr


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_has_its_service_worker_and_request() -> None:
    entries = lines(
        logged("""
async def call(name):
    bind_request_id(name)
    log.info("ours", text="Grüße\\n你好", value=object)
    await asyncio.sleep(0)
    logging.getLogger("library").warning("theirs %s", name, extra={"more": 1})
    await asyncio.create_task(child(name))
    assert current_request_id() == name

async def child(name):
    log.info("child")

async def main():
    await asyncio.gather(call("a"), call("b"))
    log.debug("too quiet")
    log.info("outside")
    thread = threading.Thread(target=lambda: log.info("thread"))
    thread.start(); thread.join()

assert new_request_id() != new_request_id()
asyncio.run(main())
""")
    )
    assert [entry["event"] for entry in entries if entry.get("request_id") == "a"] == ["ours", "theirs a", "child"]
    assert [entry["event"] for entry in entries if entry.get("request_id") == "b"] == ["ours", "theirs b", "child"]
    assert [entry["event"] for entry in entries if "request_id" not in entry] == ["outside", "thread"]
    assert {(entry["service"], entry["worker"]) for entry in entries} == {("llm", "llm-0")}
    assert all(entry["more"] == 1 for entry in entries if entry["event"].startswith("theirs")), "extra becomes fields"
    assert all({"level", "logger", "timestamp"} <= set(entry) for entry in entries)
    assert entries[0]["text"] == "Grüße\n你好"


def test_exceptions_show_the_place_and_no_values() -> None:
    script = """
def fail(text):
    secret = "what the user " + "said"
    raise ValueError("broken")
try:
    fail("x")
except ValueError:
    log.exception("failed", request="r")
"""
    (entry,) = lines(logged(script))
    assert "ValueError: broken" in entry["exception"]
    assert "in fail" in entry["exception"]
    assert "what the user said" not in json.dumps(entry)
    plain = logged(script, style="plain")
    assert "ValueError: broken" in plain
    assert "what the user said" not in plain
