"""The test of a real cluster, without one: its load against a gateway, its steps against recorded answers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from services.common.errors import Unavailable
from tests.cluster import load
from tests.cluster.__main__ import SERVICES, ClusterTest, CommandError, Row, missing, table
from tests.support.fake_stages import rig


async def test_the_load_reports_each_call_and_why_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    async with rig(worker_wait_seconds=0, session_patience_seconds=0) as r:
        capsys.readouterr()
        await load.speak(r.tts, "short", "One. Two.")
        r.encode.text_refusal = Unavailable("gone")
        await load.speak(r.tts, "long", "One.")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(line["kind"], line["error"].partition(":")[0]) for line in lines] == [
        ("short", ""),
        ("long", "UNAVAILABLE"),
    ]


class Cluster:
    """Answers kubectl and helm, and speaks once per look at the log."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self._lines: list[str] = []

    def run(self, *command: str, text: str = "") -> str:
        line = " ".join(command)
        self.commands.append(line)
        if "get pods" in line:
            ending = {"metadata": {"name": "ending", "deletionTimestamp": "now"}}
            return json.dumps({"items": [ending, {"metadata": {"name": "one"}}]})
        if "get deployment/" in line:
            container = {"image": "gateway", "imagePullPolicy": "Never", "securityContext": {}}
            return json.dumps({"spec": {"template": {"spec": {"securityContext": {}, "containers": [container]}}}})
        if " logs " in line:
            return "\n".join(self._lines)
        if "restart" in line:
            self._speak("UNAVAILABLE: draining")
        return ""

    def sleep(self, seconds: float) -> None:
        self._speak("")

    def _speak(self, error: str) -> None:
        self._lines.append(json.dumps({"kind": "short", "began": time.time(), "seconds": 1, "error": error}))


def test_every_step_runs_under_load_and_its_failures_are_counted() -> None:
    cluster = Cluster()
    test = ClusterTest(cluster.run, "there", sleep=cluster.sleep)
    test.all_steps()
    test.clean()
    failed = {row.step: len(row.failures) for row in test.rows if row.failures}
    assert failed == {"restart of the gateways": 1, "restart of everything": len(SERVICES)}
    assert all(row.calls > 0 for row in test.rows)
    evicted = [line for line in cluster.commands if line.endswith("/pods/one/eviction --filename -")]
    assert len(evicted) == len(SERVICES)
    assert "helm uninstall" in cluster.commands[-2]


def test_the_table_names_the_failures() -> None:
    text = table([Row("kill", 12.3, 5, ()), Row("restart", 4, 7, ("short: a", "short: a"))])
    assert text.splitlines()[2:] == ["| kill | 12 | 5 | 0 |", "| restart | 4 | 7 | 2 |", "restart: short: a"]


@pytest.mark.parametrize(
    ("programs", "answers", "reason"),
    [
        (("helm",), True, "kubectl is not installed"),
        (("helm", "kubectl"), False, "no cluster answers; set KUBECONFIG (refused)"),
        (("helm", "kubectl"), True, ""),
    ],
)
def test_without_a_cluster_the_test_says_what_is_missing(programs: tuple[str, ...], answers: bool, reason: str) -> None:
    def run(*_: str, **__: Any) -> str:
        if answers:
            return "ok"
        raise CommandError("kubectl:\nrefused")

    assert missing(lambda name: name if name in programs else None, run) == reason
