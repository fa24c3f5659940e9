"""`python -m tests.cluster`: tests the chart on a real cluster. See `make cluster-test`.

The cluster is that of KUBECONFIG, or one node that it starts from a folder of Kubernetes' binaries (`node.sh`). It
installs two pods of each service into a namespace of its own, lets a pod of the cluster speak without pause, scales,
kills, upgrades, restarts and evicts under this load, and prints a table of calls and failures per step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RELEASE = "light-tts"
SERVICES = ("encode", "llm", "decode", "gateway")
LOAD = "light-tts-cluster-test"
SETTLE_SECONDS = 10.0
"""Load before the first step, and after each."""
MINUTES = "20m"

NODE = ROOT / "tests" / "cluster" / "node.sh"
BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
"""What KUBE_BIN must hold."""
ALSO = (
    *("etcd", "containerd", "containerd-shim-runc-v2", "ctr", "runc"),
    *("iptables", "dnsmasq", "openssl", "ip", "catatonit"),
)
"""What a node needs too, from KUBE_BIN or PATH."""
ON_THE_NODE = {
    service: {"image": {"pullPolicy": "Never"}, "resources": {"requests": {"cpu": "50m"}}} for service in SERVICES
}
"""Values for images that were put into the node by hand, and two CPUs."""

Run = Callable[..., str]
"""Runs a command and returns its output; `text` is its standard input. Raises CommandError."""


class CommandError(Exception):
    """A command failed; the message has its output."""


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=text)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}:\n{done.stderr}{done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class Row:
    """Calls that began during one step."""

    step: str
    seconds: float
    calls: int
    failures: tuple[str, ...]


@dataclass
class ClusterTest:
    """One run, in one namespace."""

    run: Run
    namespace: str
    values: Sequence[str] = ()
    """Further values files, for images that are not in the default registry."""
    sleep: Callable[[float], None] = time.sleep
    rows: list[Row] = field(default_factory=list)

    def kubectl(self, *arguments: str, text: str = "") -> str:
        return self.run("kubectl", "--namespace", self.namespace, *arguments, text=text)

    def upgrade(self, *settings: str) -> None:
        """Install or upgrade the release with two pods of each service and these settings; wait until it serves."""
        sets = [f"{service}.replicaCount=2" for service in SERVICES]
        files = ["helm/values-cpu.yaml", *self.values]
        self.run(
            "helm",
            "upgrade",
            RELEASE,
            str(ROOT / "helm"),
            *("--install", "--create-namespace", "--namespace", self.namespace, "--wait", "--timeout", MINUTES),
            *(part for file in files for part in ("--values", file)),
            *(part for setting in (*sets, *settings) for part in ("--set", setting)),
        )
        for service in SERVICES:
            self.kubectl("rollout", "status", f"deployment/{RELEASE}-{service}", f"--timeout={MINUTES}")

    def pods(self, service: str) -> list[str]:
        """Return the names of a service's pods that do not end."""
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={service}"
        items = json.loads(self.kubectl("get", "pods", "--selector", selector, "--output", "json"))["items"]
        return [item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]]

    def start_load(self) -> None:
        """Run `load.py` in a pod with the gateway's image, as a client of the gateway's Service."""
        script = (ROOT / "tests" / "cluster" / "load.py").read_text(encoding="utf-8")
        gateway = json.loads(self.kubectl("get", f"deployment/{RELEASE}-gateway", "--output", "json"))
        container = gateway["spec"]["template"]["spec"]["containers"][0]
        address = f"{RELEASE}-gateway.{self.namespace}.svc:50050"
        metadata = {"name": LOAD, "namespace": self.namespace}
        configuration = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"load.py": script}}
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": gateway["spec"]["template"]["spec"]["securityContext"],
            "containers": [
                {
                    "name": "load",
                    "image": container["image"],
                    "imagePullPolicy": container["imagePullPolicy"],
                    "command": ["python", "-P", "/load/load.py", address, "1"],
                    "securityContext": container["securityContext"],
                    "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
                    "volumeMounts": [{"name": "load", "mountPath": "/load", "readOnly": True}],
                }
            ],
            "volumes": [{"name": "load", "configMap": {"name": LOAD}}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        for item in (configuration, pod):
            self.kubectl("apply", "--filename", "-", text=json.dumps(item))
        self.kubectl("wait", f"pod/{LOAD}", "--for=condition=Ready", "--timeout=5m")

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do something under load, and count the calls that began meanwhile."""
        began = time.time()
        work()
        self.sleep(SETTLE_SECONDS)
        ended = time.time()
        self.sleep(SETTLE_SECONDS)  # the last of them end
        lines = [json.loads(line) for line in self.kubectl("logs", LOAD).splitlines() if line.startswith("{")]
        calls = [line for line in lines if began <= line["began"] < ended]
        failures = tuple(f"{line['kind']}: {line['error']}" for line in calls if line["error"])
        self.rows.append(Row(name, ended - began, len(calls), failures))

    def evict_one_of_each(self) -> None:
        """Evict a pod of each service, as the drain of a node does; PodDisruptionBudgets apply."""
        for service in SERVICES:
            pod = self.pods(service)[0]
            metadata = {"name": pod, "namespace": self.namespace}
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
            self.run("kubectl", "create", "--raw", path, "--filename", "-", text=json.dumps(eviction))
        for service in SERVICES:
            self.kubectl("rollout", "status", f"deployment/{RELEASE}-{service}", f"--timeout={MINUTES}")

    def restart(self, *services: str) -> None:
        for service in services:
            self.kubectl("rollout", "restart", f"deployment/{RELEASE}-{service}")
        for service in services:
            self.kubectl("rollout", "status", f"deployment/{RELEASE}-{service}", f"--timeout={MINUTES}")

    def kill(self, service: str) -> None:
        """End a pod without any grace."""
        self.kubectl("delete", "pod", self.pods(service)[0], "--grace-period=0", "--force")

    def all_steps(self) -> None:
        self.upgrade()
        self.run("helm", "test", RELEASE, "--namespace", self.namespace)
        self.start_load()
        self.step("load alone", lambda: self.sleep(SETTLE_SECONDS))
        self.step("decode 2 to 4", lambda: self.upgrade("decode.replicaCount=4"))
        self.step("decode 4 to 2", lambda: self.upgrade())
        for service in ("decode", "llm"):
            self.step(f"kill a pod of {service}", lambda service=service: self.kill(service))  # type: ignore[misc]
        self.step("upgrade of labels", lambda: self.upgrade("commonLabels.team=speech"))
        self.step("restart of the gateways", lambda: self.restart("gateway"))
        self.step("restart of everything", lambda: self.restart(*SERVICES))
        self.step("eviction of one pod of each", self.evict_one_of_each)

    def clean(self) -> None:
        self.run("helm", "uninstall", RELEASE, "--namespace", self.namespace, "--ignore-not-found")
        self.run("kubectl", "delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, with each kind of failure below it."""
    lines = ["| step | seconds | calls | failed |", "|---|---|---|---|"]
    lines += [f"| {row.step} | {row.seconds:.0f} | {row.calls} | {len(row.failures)} |" for row in rows]
    lines += [f"{row.step}: {failure}" for row in rows for failure in sorted(set(row.failures))]
    return "\n".join(lines)


def missing(find: Callable[[str], str | None] = shutil.which, run: Run = run) -> str:
    """Return why there is no cluster to test, or an empty string."""
    for program in ("kubectl", "helm"):
        if find(program) is None:
            return f"{program} is not installed"
    try:
        run("kubectl", "get", "--raw", "/readyz", "--request-timeout=10s")
    except CommandError as error:
        return f"no cluster answers; set KUBECONFIG ({str(error).splitlines()[-1]})"
    return ""


def missing_for_a_node(binaries: Path, find: Callable[[str], str | None] = shutil.which) -> str:
    """Return why no node can be started from this folder, or an empty string."""
    if lacking := [name for name in BINARIES if not (binaries / name).exists()]:
        return f"KUBE_BIN={binaries} has no {', '.join(lacking)}"
    if lacking := [name for name in (*ALSO, "helm") if not (binaries / name).exists() and find(name) is None]:
        return f"neither KUBE_BIN nor PATH has {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "a node can only be started by root"
    return ""


@contextlib.contextmanager
def node(binaries: Path, images: Sequence[str], run: Run = run) -> Iterator[list[str]]:
    """Start a node with these images; yield values files for it. KUBECONFIG and PATH lead to it meanwhile."""
    with tempfile.TemporaryDirectory(prefix="kube-", ignore_cleanup_errors=True) as state:
        before = {name: os.environ.get(name) for name in ("KUBECONFIG", "PATH", "KUBE_BIN", "STATE")}
        os.environ |= {
            "KUBE_BIN": str(binaries),
            "STATE": state,
            "KUBECONFIG": f"{state}/pki/admin.conf",
            "PATH": f"{binaries}:{os.environ['PATH']}",
        }
        try:
            sys.stdout.write(run(str(NODE), "up", "1"))
            if images:
                run(str(NODE), "images", *images)
            values = Path(state) / "values.json"
            values.write_text(json.dumps(ON_THE_NODE), encoding="utf-8")
            yield [str(values)]
        finally:
            sys.stdout.write(run(str(NODE), "down"))
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--namespace", default="light-tts-cluster-test", help="it is deleted at the end")
    parser.add_argument("--values", action="append", default=[], help="a further values file, such as for images")
    parser.add_argument("--kube-bin", type=Path, help="a folder of Kubernetes' binaries: start a node from them")
    parser.add_argument("--images", action="append", default=[], help="a file of images (podman save) for that node")
    arguments: Any = parser.parse_args(given)
    with contextlib.ExitStack() as stack:
        values = list(arguments.values)
        if arguments.kube_bin is not None:
            if reason := missing_for_a_node(arguments.kube_bin.absolute()):
                sys.stdout.write(f"skipped: {reason}\n")
                return 0
            values = [*stack.enter_context(node(arguments.kube_bin.absolute(), arguments.images)), *values]
        if reason := missing():
            sys.stdout.write(f"skipped: {reason}\n")
            return 0
        test = ClusterTest(run, arguments.namespace, values)
        try:
            test.all_steps()
        finally:
            sys.stdout.write(table(test.rows) + "\n")
            test.clean()
    return int(any(row.failures for row in test.rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
