"""The node of `make cluster-test KUBE_BIN=DIR`, with stand-ins for every program that it starts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.__main__ import ALSO, BINARIES, NODE, SERVICES, main, missing_for_a_node, node

STAND_IN = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >>"$CALLS"
case "$name $*" in
  *--cleanup) ;;
  etcd*|kube-apiserver*|kube-controller-manager*|kube-scheduler*) exec sleep 600 ;;
  kubelet*|kube-proxy*|"containerd "*|dnsmasq*) exec sleep 600 ;;
  ctr*"images ls"*) echo localhost/pause:1 ;;
esac
"""
RUNNING = (
    *("etcd", "apiserver", "controllers", "scheduler", "containerd1", "kubelet1"),
    *("proxy", "dnsmasq", "dnsfeed"),
)


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins, which record their command lines, and a state folder with certificates."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*BINARIES, *ALSO, "sysctl", "helm"):
        (folder / name).write_text(STAND_IN, encoding="utf-8")
        (folder / name).chmod(0o755)
    (tmp_path / "state" / "pki").mkdir(parents=True)
    (tmp_path / "state" / "pki" / "ca.crt").touch()
    environment = {"KUBE_BIN": folder, "STATE": tmp_path / "state", "CALLS": tmp_path / "calls", "CGROUPS": tmp_path}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    return folder


@pytest.fixture
def started(binaries: Path, tmp_path: Path) -> Iterator[dict[str, int]]:
    """A node; its components' process ids by name."""
    run_node("up", "1")
    try:
        pids = {path.name: path for path in (tmp_path / "state" / "pid").iterdir() if path.suffix != ".cmd"}
        yield {name: int(path.read_text(encoding="utf-8")) for name, path in pids.items()}
    finally:
        run_node("down")


def run_node(*arguments: str) -> str:
    return subprocess.run(["bash", NODE, *arguments], capture_output=True, text=True, check=True).stdout


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text(encoding="utf-8").splitlines()


@pytest.mark.system
def test_a_node_starts_takes_images_restarts_a_component_and_ends(started: dict[str, int], tmp_path: Path) -> None:
    assert started.keys() == set(RUNNING)
    assert all(psutil.pid_exists(pid) for pid in started.values())
    made = calls(tmp_path)
    order = [next(n for n, line in enumerate(made) if line.startswith(f"{name} ")) for name in ("ip", "containerd")]
    assert order == sorted(order)
    assert any(line.startswith("kube-apiserver ") and "--authorization-mode=Node,RBAC" in line for line in made)
    assert "kubectl wait --for=condition=Ready node/node1 --timeout=5s" in made
    run_node("images", "one.tar", "two.tar")
    assert [line.split()[-1] for line in calls(tmp_path) if "images import" in line] == ["one.tar", "two.tar"]
    run_node("stop", "scheduler", "-KILL")
    assert "scheduler -" in run_node("status")
    run_node("start", "scheduler")
    assert "scheduler -" not in run_node("status")
    run_node("down")
    assert not [pid for pid in started.values() if psutil.pid_exists(pid)]
    assert {line.rpartition(" ")[2] for line in run_node("status").splitlines()} == {"-"}


def test_the_cluster_test_runs_on_the_node_and_ends_it(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def run(*command: str, text: str = "") -> str:
        commands.append(" ".join(Path(part).name for part in command))
        return ""

    monkeypatch.setenv("KUBECONFIG", "mine")
    with node(binaries, ["a.tar"], run) as (values,):
        assert os.environ["KUBECONFIG"].endswith("/pki/admin.conf")
        assert os.environ["PATH"].startswith(f"{binaries}:")
        given: dict[str, Any] = json.loads(Path(values).read_text(encoding="utf-8"))
        assert given.keys() == set(SERVICES)
        assert all(each["image"]["pullPolicy"] == "Never" for each in given.values())
    assert commands == ["node.sh up 1", "node.sh images a.tar", "node.sh down"]
    assert os.environ["KUBECONFIG"] == "mine"


def test_what_a_node_lacks_is_said(
    binaries: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (binaries / "kubelet").unlink()
    assert main(["--kube-bin", str(binaries)]) == 0
    assert capsys.readouterr().out == f"skipped: KUBE_BIN={binaries} has no kubelet\n"
    (binaries / "kubelet").touch()
    (binaries / "containerd").unlink()
    assert missing_for_a_node(binaries, lambda _: None) == "neither KUBE_BIN nor PATH has containerd"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing_for_a_node(binaries, lambda name: name) == "a node can only be started by root"
