"""A cluster in small: runs rendered manifests as local processes, each pod at a loopback address of its own.

It does what a cluster would do with them: a kubelet (command line, environment, volumes, gRPC probes, the end of a
pod), a controller of endpoint slices behind the stand-in API server, a DNS server with the headless services' names,
and the rights that Roles give. A pod without a mounted token gets no way to the API server.

In the place of a pod's own network stands its loopback address: `0.0.0.0` in a pod's environment becomes that address,
and `dns:///` the DNS server's. Probes look five times a second, so that tests need not wait for the manifests' periods.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.dns_server import DnsServer
from tests.support.helm import ROOT
from tests.support.kube_api import KubeApi, endpoint, endpoint_slice

PROBE_SECONDS = 0.2
RESTART_SECONDS = 1.0
START_SECONDS = 120.0
HOPELESS = 3
"""Restarts of a starting pod after which nobody waits for it."""
Manifest = dict[str, Any]


@dataclass
class Pod:
    """One pod and its process."""

    name: str
    address: str
    labels: dict[str, str]
    spec: Manifest
    log: Path
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    terminating: bool = False
    ready_at: float = 0.0
    """time.monotonic() of the latest turn to Ready."""
    restarts: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def container(self) -> Manifest:
        return dict(self.spec["containers"][0])

    def port(self, name: str) -> int:
        return next(int(port["containerPort"]) for port in self.container["ports"] if port["name"] == name)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])

    def kill(self) -> None:
        """Ends the process at once, as a crash would; the kubelet starts it again."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)


class Cluster:
    """Enter it with the objects of a release; leaving stops everything."""

    def __init__(
        self, objects: list[Manifest], folder: Path, secrets: Mapping[str, Path] | None = None, wait: bool = True
    ) -> None:
        """`secrets` are folders of files by name. Without `wait` entering does not wait for Ready pods."""
        self.api = KubeApi()
        self.dns = DnsServer()
        self.pods: list[Pod] = []
        self._objects = objects
        self._folder = folder
        self._secrets = dict(secrets or {})
        self._wait = wait
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self._hosts: Iterator[int] = iter(range(1, 255))
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Cluster:
        await self.api.__aenter__()
        await self.dns.__aenter__()
        self.api.rights = dict(self._rights())
        try:
            await self._publish()
            for deployment in self._of_kind("Deployment"):
                for _ in range(deployment["spec"].get("replicas", 1)):
                    await self._start_pod(deployment)
            if self._wait:
                await asyncio.gather(*(self._until_ready(pod) for pod in self.pods))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for pod in list(self.pods):
            for task in pod.tasks:
                task.cancel()
            await asyncio.gather(*pod.tasks, return_exceptions=True)
            if pod.process is not None and pod.process.returncode is None:
                pod.kill()
                await pod.process.wait()
        await self.dns.__aexit__()
        await self.api.__aexit__()

    def running(self, component: str) -> list[Pod]:
        """The pods of a component that are not on their way out."""
        return [
            pod for pod in self.pods if pod.labels["app.kubernetes.io/component"] == component and not pod.terminating
        ]

    def reach(self, service: str, port: str) -> str:
        """`host:port` of a Ready pod behind a service, as its cluster address would lead to."""
        manifest = next(item for item in self._of_kind("Service") if item["metadata"]["name"] == service)
        pod = next(pod for pod in self._behind(manifest) if pod.ready)
        target = next(entry["targetPort"] for entry in manifest["spec"]["ports"] if entry["name"] == port)
        return f"{pod.address}:{pod.port(target)}"

    async def scale(self, component: str) -> Pod:
        """One more pod of a component; returns once it is Ready."""
        deployment = next(
            item
            for item in self._of_kind("Deployment")
            if item["metadata"]["labels"]["app.kubernetes.io/component"] == component
        )
        pod = await self._start_pod(deployment)
        await self._until_ready(pod)
        return pod

    async def delete(self, pod: Pod) -> int:
        """The end of a pod as the kubelet does it; the exit code of its process."""
        pod.terminating, pod.ready = True, False
        await self._publish()
        for task in pod.tasks:
            task.cancel()
        await asyncio.gather(*pod.tasks, return_exceptions=True)
        process = pod.process
        assert process is not None
        pre_stop = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        try:
            async with asyncio.timeout(pod.spec["terminationGracePeriodSeconds"]):
                await asyncio.sleep(pre_stop)
                process.terminate()
                await process.wait()
        except TimeoutError:
            pod.kill()
            await process.wait()
        self.pods.remove(pod)
        await self._publish()
        assert process.returncode is not None
        return process.returncode

    async def run(self, spec: Manifest, command: list[str]) -> tuple[int, str]:
        """Runs the one container of a pod's spec with `command` to its end: its exit code and what it wrote."""
        process = await asyncio.create_subprocess_exec(
            *_here(command),
            cwd=ROOT,
            env={**_outside(), **{entry["name"]: entry["value"] for entry in spec["containers"][0].get("env", [])}},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def until(self, condition: Callable[[], bool], pod: Pod) -> None:
        """Waits for a change of a pod. Raises AssertionError with the end of its log when it does not come."""
        try:
            async with asyncio.timeout(START_SECONDS), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{pod.name} did not get there:\n{pod.log_tail()}") from None

    async def _until_ready(self, pod: Pod) -> None:
        await self.until(lambda: pod.ready or pod.restarts >= HOPELESS, pod)
        assert pod.ready, f"{pod.name} does not start:\n{pod.log_tail()}"

    def _of_kind(self, kind: str) -> list[Manifest]:
        return [item for item in self._objects if item["kind"] == kind]

    def _behind(self, service: Manifest) -> list[Pod]:
        selector = service["spec"]["selector"].items()
        return [pod for pod in self.pods if selector <= pod.labels.items()]

    async def _start_pod(self, deployment: Manifest) -> Pod:
        template = deployment["spec"]["template"]
        number = next(self._hosts)
        name = f"{deployment['metadata']['name']}-{number}"
        folder = self._folder / name
        folder.mkdir(parents=True)
        pod = Pod(name, f"{self._network}.{number}", template["metadata"]["labels"], template["spec"], folder / "log")
        self.pods.append(pod)
        await self._spawn(pod)
        pod.tasks = [asyncio.create_task(self._probe(pod)), asyncio.create_task(self._keep_running(pod))]
        return pod

    async def _spawn(self, pod: Pod) -> None:
        with pod.log.open("ab") as output:
            pod.process = await asyncio.create_subprocess_exec(
                *_here(pod.container["command"]),
                cwd=ROOT,
                env=self._environment(pod),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _environment(self, pod: Pod) -> dict[str, str]:
        """What the kubelet would set, with volumes and network as they are here."""
        values: dict[str, str] = {}
        for source in pod.container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            values |= next(item["data"] for item in self._of_kind("ConfigMap") if item["metadata"]["name"] == name)
        fields = {"metadata.name": pod.name, "status.podIP": pod.address}
        for entry in pod.container.get("env", []):
            source = entry.get("valueFrom")
            values[entry["name"]] = entry["value"] if source is None else fields[source["fieldRef"]["fieldPath"]]
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for mount in pod.container["volumeMounts"]:
            secret = volumes[mount["name"]].get("secret")
            place = self._secrets[secret["secretName"]] if secret else pod.log.parent / "volumes" / mount["name"]
            place.mkdir(parents=True, exist_ok=True)
            values = {name: _moved(value, mount["mountPath"], place) for name, value in values.items()}
        for name, value in values.items():
            value = pod.address if value == "0.0.0.0" else value  # noqa: S104 - compared, not bound
            values[name] = value.replace("dns:///", f"dns://127.0.0.1:{self.dns.port}/", 1)
        if pod.spec["automountServiceAccountToken"]:
            values["KUBECONFIG"] = str(self._kubeconfig(pod))
        return {**_outside(), **values}

    def _kubeconfig(self, pod: Pod) -> Path:
        named = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.api.port}"}}],
            "users": [{"name": "u", "user": {"token": f"of-{pod.spec['serviceAccountName']}"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        path = pod.log.parent / "kubeconfig"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))
        return path

    def _rights(self) -> Iterator[tuple[str, frozenset[str]]]:
        """What each service account may do with endpoint slices, by its token."""
        roles = {item["metadata"]["name"]: item["rules"] for item in self._of_kind("Role")}
        for binding in self._of_kind("RoleBinding"):
            rules = [rule for rule in roles[binding["roleRef"]["name"]] if "endpointslices" in rule["resources"]]
            verbs = frozenset(verb for rule in rules for verb in rule["verbs"])
            for subject in binding["subjects"]:
                yield f"of-{subject['name']}", verbs

    async def _probe(self, pod: Pod) -> None:
        """Ready when the startup probe has passed once and the readiness probe passes."""
        started_after = -1
        while True:
            if started_after != pod.restarts and await _healthy(pod, "startupProbe"):
                started_after = pod.restarts
            ready = started_after == pod.restarts and await _healthy(pod, "readinessProbe")
            if ready != pod.ready:
                pod.ready, pod.ready_at = ready, time.monotonic()
                await self._publish()
            await asyncio.sleep(PROBE_SECONDS)

    async def _keep_running(self, pod: Pod) -> None:
        while pod.process is not None:
            await pod.process.wait()
            pod.ready = False
            await self._publish()
            await asyncio.sleep(RESTART_SECONDS)
            pod.restarts += 1
            await self._spawn(pod)

    async def _publish(self) -> None:
        """Brings endpoint slices and DNS records up to date."""
        for service in self._of_kind("Service"):
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            pods = self._behind(service)
            endpoints = [endpoint(pod.address, pod.name, ready=pod.ready, terminating=pod.terminating) for pod in pods]
            ports = {port["name"]: pods[0].port(port["targetPort"]) for port in service["spec"]["ports"] if pods}
            item = endpoint_slice(f"{name}-1", name, endpoints, ports=ports)
            item["metadata"]["namespace"] = namespace
            await self.api.put(item)
            self.dns.records[f"{name}.{namespace}.svc.cluster.local"] = [pod.address for pod in pods if pod.ready]
        async with self._changed:
            self._changed.notify_all()


async def _healthy(pod: Pod, probe: str) -> bool:
    check = pod.container[probe]["grpc"]
    async with grpc.aio.insecure_channel(f"{pod.address}:{check['port']}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=check["service"]), timeout=1.0)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _here(command: list[str]) -> list[str]:
    """A container's command line, with the programs that its image would have."""
    programs = {"python": sys.executable, "light-tts": str(Path(sys.executable).with_name("light-tts"))}
    return [programs[command[0]], *command[1:]]


def _outside() -> dict[str, str]:
    """What a process of this machine needs that a container would not take from it."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "SSL_CERT_FILE") if name in os.environ}


def _moved(value: str, mount: str, place: Path) -> str:
    return str(place) + value.removeprefix(mount) if value == mount or value.startswith(f"{mount}/") else value
