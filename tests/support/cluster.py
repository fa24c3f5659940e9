"""A small cluster: runs rendered manifests as local processes, each pod at its own loopback address.

It does what a cluster does with them: a kubelet (command lines, environment and volumes as in `kubelet`, init
containers, gRPC probes, restarts, the end of a pod), a controller of endpoint slices behind the stand-in API server, a
DNS server with the headless services' names, and the rights that Roles give. A pod without a mounted token cannot reach
the API server. Probes run five times a second, so that tests need not wait for the manifests' periods.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.dns_server import DnsServer
from tests.support.helm import ROOT
from tests.support.kube_api import KubeApi, endpoint, endpoint_slice
from tests.support.kubelet import Kubelet, Manifest, Place

PROBE_SECONDS = 0.2
RESTART_SECONDS = 1.0
START_SECONDS = 120.0
HOPELESS = 3
"""Restarts of a starting pod after which the wait for it ends."""


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
    """time.monotonic() when it last became Ready."""
    restarts: int = 0
    log_began: int = 0
    """Byte offset of the latest run in the log."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def container(self) -> Manifest:
        return dict(self.spec["containers"][0])

    def port(self, name: str) -> int:
        return next(int(port["containerPort"]) for port in self.container["ports"] if port["name"] == name)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])

    def termination_message(self) -> str:
        """Return what `kubectl describe pod` shows of a failed container: the end of its log."""
        assert self.container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        return self.log.read_bytes()[self.log_began :][-2048:].decode(errors="replace")

    def kill(self) -> None:
        """Kill the process and its children, as a crash would; the kubelet starts the pod again."""
        assert self.process is not None
        first = psutil.Process(self.process.pid)
        for process in (*first.children(recursive=True), first):
            process.kill()


class Cluster:
    """Enter it with the objects of a release; leaving stops everything."""

    def __init__(
        self, objects: list[Manifest], folder: Path, secrets: Mapping[str, Path] | None = None, wait: bool = True
    ) -> None:
        """`secrets` are folders of files by name. Without `wait` entering does not wait for Ready pods."""
        self.api = KubeApi()
        self.dns = DnsServer()
        self.pods: list[Pod] = []
        self.objects = objects
        self._folder = folder
        self._secrets = dict(secrets or {})
        self._kubelet: Kubelet
        self._wait = wait
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self._hosts: Iterator[int] = iter(range(1, 255))
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Cluster:
        await self.api.__aenter__()
        await self.dns.__aenter__()
        self.api.rights = dict(self._rights())
        self._kubelet = Kubelet(
            self.objects, self._folder / "claims", self._secrets, self.dns.port, self.api.port, self._behind_port
        )
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
        """Return the pods of a component that are not terminating."""
        return [
            pod for pod in self.pods if pod.labels["app.kubernetes.io/component"] == component and not pod.terminating
        ]

    def reach(self, service: str, port: str) -> str:
        """Return `host:port` of a Ready pod behind a service's port, given by name, in place of the cluster address."""
        return self._lead(service, lambda entry: bool(entry["name"] == port))

    def _behind_port(self, service: str, number: int) -> str:
        return self._lead(service, lambda entry: bool(entry["port"] == number))

    def _lead(self, service: str, wanted: Callable[[Manifest], bool]) -> str:
        manifest = next(item for item in self._of_kind("Service") if item["metadata"]["name"] == service)
        pod = next(pod for pod in self._behind(manifest) if pod.ready)
        target = next(entry["targetPort"] for entry in manifest["spec"]["ports"] if wanted(entry))
        return f"{pod.address}:{pod.port(target)}"

    async def scale(self, component: str) -> Pod:
        """Add a pod of a component and wait until it is Ready."""
        deployment = next(
            item
            for item in self._of_kind("Deployment")
            if item["metadata"]["labels"]["app.kubernetes.io/component"] == component
        )
        pod = await self._start_pod(deployment)
        await self._until_ready(pod)
        return pod

    async def delete(self, pod: Pod) -> int:
        """End a pod as the kubelet does; return the exit code of its process."""
        pod.terminating, pod.ready = True, False
        await self._publish()
        for task in pod.tasks:
            task.cancel()
        await asyncio.gather(*pod.tasks, return_exceptions=True)
        process = pod.process
        assert process is not None
        pre_stop = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        try:
            async with asyncio.timeout(pod.spec.get("terminationGracePeriodSeconds", 30)):
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

    async def run(self, owner: Manifest) -> tuple[int, str]:
        """Run the containers of a Job or a Pod one after another. Return the first exit code that is not 0, or the last
        one, and the output."""
        spec = owner["spec"]["template"]["spec"] if owner["kind"] == "Job" else owner["spec"]
        pod = self._new_pod(owner["metadata"]["name"], {}, spec)
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            code = await (await self._process(pod, container)).wait()
            if code:
                break
        return code, pod.log.read_text(encoding="utf-8")

    async def until(self, condition: Callable[[], bool], pod: Pod) -> None:
        """Wait for a condition of a pod. Raises AssertionError with the end of its log on timeout."""
        try:
            async with asyncio.timeout(START_SECONDS), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{pod.name} did not get there:\n{pod.log_tail()}") from None

    async def _until_ready(self, pod: Pod) -> None:
        await self.until(lambda: pod.ready or pod.restarts >= HOPELESS, pod)
        assert pod.ready, f"{pod.name} does not start:\n{pod.log_tail()}"

    def _of_kind(self, kind: str) -> list[Manifest]:
        return [item for item in self.objects if item["kind"] == kind]

    def _behind(self, service: Manifest) -> list[Pod]:
        selector = service["spec"]["selector"].items()
        return [pod for pod in self.pods if selector <= pod.labels.items()]

    async def _start_pod(self, deployment: Manifest) -> Pod:
        template = deployment["spec"]["template"]
        pod = self._new_pod(deployment["metadata"]["name"], template["metadata"]["labels"], template["spec"])
        self.pods.append(pod)
        pod.tasks = [asyncio.create_task(self._probe(pod)), asyncio.create_task(self._keep_running(pod))]
        return pod

    def _new_pod(self, owner: str, labels: dict[str, str], spec: Manifest) -> Pod:
        number = next(self._hosts)
        folder = self._folder / f"{owner}-{number}"
        folder.mkdir(parents=True)
        (folder / "log").touch()
        return Pod(f"{owner}-{number}", f"{self._network}.{number}", labels, spec, folder / "log")

    async def _process(self, pod: Pod, container: Manifest) -> asyncio.subprocess.Process:
        place = Place(pod.name, pod.address, pod.log.parent)
        pod.log_began = pod.log.stat().st_size
        with pod.log.open("ab") as output:
            pod.process = await asyncio.create_subprocess_exec(
                *self._kubelet.command(pod.spec, container, place),
                cwd=ROOT,
                env=self._kubelet.environment(pod.spec, container, place),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return pod.process

    def _rights(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield the permitted verbs on endpoint slices of each service account, by its token."""
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
        for container in pod.spec.get("initContainers", []):
            process = await self._process(pod, container)
            while await process.wait():
                await asyncio.sleep(RESTART_SECONDS)
                process = await self._process(pod, container)
        while True:
            await (await self._process(pod, pod.container)).wait()
            pod.ready = False
            pod.restarts += 1
            await self._publish()
            await asyncio.sleep(RESTART_SECONDS)

    async def _publish(self) -> None:
        """Update endpoint slices and DNS records."""
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
    if probe not in pod.container:
        return pod.process is not None and pod.process.returncode is None
    check = pod.container[probe]["grpc"]
    async with grpc.aio.insecure_channel(f"{pod.address}:{check['port']}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=check["service"]), timeout=1.0)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
