"""Discovery by EndpointSlices with a simulated API server: the pods that are listed, and the effect of failures."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.common.discovery import discover
from services.common.discovery import kubernetes as discovery_module
from services.common.discovery.endpoints import Listing, ready_addresses
from tests.support.kube_api import KubeApi, endpoint, endpoint_slice, write_kubeconfig

TARGET = "kubernetes:///decode.speech"
LIMIT_SECONDS = 400


@pytest_asyncio.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with KubeApi() as server:
        yield server


@pytest.fixture(autouse=True)
def kubeconfig(api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the client to the simulated server, in the namespace speech."""
    write_kubeconfig(tmp_path / "config", api.port)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))


@asynccontextmanager
async def watching(target: str = TARGET) -> AsyncIterator[AsyncIterator[frozenset[str]]]:
    async with asyncio.timeout(LIMIT_SECONDS), aclosing(discover(target).watch()) as sets:
        yield sets


def failures(target: str = TARGET) -> float:
    return REGISTRY.get_sample_value("lighttts_discovery_failures_total", {"target": target}) or 0.0


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("kubernetes:///", "malformed; write kubernetes:///service"),
        ("kubernetes://decode", "third slash"),
        ("kubernetes://speech/decode", "three slashes"),
        ("kubernetes:///Decode", "lower-case"),
        ("kubernetes:///decode.speech.svc", "lower-case"),
        ("kubernetes:///decode:0", "1 to 65535"),
        ("kubernetes:///decode:70000", "1 to 65535"),
    ],
)
def test_a_malformed_target_is_refused_with_the_correct_form(bad: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        discover(bad)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install light-tts\[k8s\]"):
        discover(TARGET)


def test_only_ready_endpoints_that_are_not_terminating_are_listed() -> None:
    pods = [
        endpoint("10.0.0.1", "ready"),
        endpoint("10.0.0.2", "starting", ready=False),
        endpoint("10.0.0.3", "stopping", ready=False, terminating=True),
        endpoint("10.0.0.4", "published-though-stopping", terminating=True),
        endpoint("10.0.0.5", "unknown-counts-as-ready", ready=None, terminating=None),
        {"addresses": ["10.0.0.6"]},
        {"addresses": []},
    ]
    listed = ready_addresses([endpoint_slice("a", "decode", pods)], "")
    assert listed == {"10.0.0.1:50061", "10.0.0.5:50061", "10.0.0.6:50061"}


def test_slices_are_merged_and_each_pod_counts_once() -> None:
    slices = [
        endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one"), endpoint("10.0.0.2", "two")]),
        endpoint_slice("b", "decode", [endpoint("10.0.0.2", "two"), endpoint("10.0.0.3", "three")]),
        endpoint_slice("c", "decode", [endpoint("fd00::1", "one"), endpoint("fd00::4", "four")], family="IPv6"),
        endpoint_slice("d", "decode", [endpoint("decode.example", "five")], family="FQDN"),
        endpoint_slice("e", "decode", None),
    ]
    assert ready_addresses(slices, "") == {"10.0.0.1:50061", "10.0.0.2:50061", "10.0.0.3:50061", "[fd00::4]:50061"}


def test_a_pod_that_one_slice_marks_as_terminating_is_left_out() -> None:
    slices = [
        endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]),
        endpoint_slice("b", "decode", [endpoint("10.0.0.1", "one", ready=False, terminating=True)]),
    ]
    assert ready_addresses(slices, "") == frozenset()


@pytest.mark.parametrize(
    ("port", "ports", "expected"),
    [
        ("", {"grpc": 1, "metrics": 2}, {"10.0.0.1:1"}),
        ("", {"": 3}, {"10.0.0.1:3"}),
        ("", {"one": 1, "two": 2}, set()),
        ("metrics", {"grpc": 1, "metrics": 2}, {"10.0.0.1:2"}),
        ("metrics", {"grpc": 1}, set()),
        ("7000", {"grpc": 1}, {"10.0.0.1:7000"}),
        ("7000", {}, {"10.0.0.1:7000"}),
    ],
)
def test_the_port_is_taken_by_name_or_number(port: str, ports: dict[str, int], expected: set[str]) -> None:
    assert (
        ready_addresses([endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")], ports=ports)], port) == expected
    )


async def test_pods_that_come_and_go_are_seen(api: KubeApi) -> None:
    await api.put(endpoint_slice("other", "llm", [endpoint("10.9.9.9", "llm")]))
    async with watching() as sets:
        assert await anext(sets) == frozenset()
        await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]))
        assert await anext(sets) == {"10.0.0.1:50061"}
        await api.put(endpoint_slice("b", "decode", [endpoint("10.0.0.2", "two")]))
        assert await anext(sets) == {"10.0.0.1:50061", "10.0.0.2:50061"}
        await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one", ready=False, terminating=True)]))
        assert await anext(sets) == {"10.0.0.2:50061"}
        await api.delete("b")
        assert await anext(sets) == frozenset()
    assert api.requests["list"] == 1
    assert failures() == 0


READY, UNREADY, ENDING = (True, False), (False, False), (False, True)


@pytest.mark.parametrize(
    ("states", "seconds", "listed"),
    [
        # One of them is not ready: it is left out.
        ([(READY,) * 4, (READY, UNREADY, READY, READY)], 0, {1, 3, 4}),
        # None is ready: those that were listed stay, those that never were do not come.
        ([(READY, READY, READY, UNREADY), (UNREADY,) * 4], 0, {1, 2, 3}),
        ([(UNREADY,) * 4], 0, set()),
        # The controller changes one pod after the other.
        ([(READY,) * 4, *(((UNREADY,) * n + (READY,) * (4 - n)) for n in range(1, 5))], 10, {1, 2, 3, 4}),
        ([(READY,) * 4, *(((UNREADY,) * n + (READY,) * (4 - n)) for n in range(1, 5))], 40, {3, 4}),
        # Pods that end are left out all the same.
        ([(READY,) * 4, (UNREADY,) * 4, (UNREADY, ENDING, UNREADY, UNREADY)], 1, {1, 3, 4}),
        ([(READY,) * 4, (ENDING,) * 4], 1, set()),
        # They stay for as long as it takes.
        ([(READY,) * 4, *((UNREADY,) * 4,) * 9], 1000, {1, 2, 3, 4}),
        # One is ready again: it does not get the load of all. With the second one, half of them are.
        ([(READY,) * 4, (UNREADY,) * 4, (READY, UNREADY, UNREADY, UNREADY)], 1, {1, 2, 3, 4}),
        ([(READY,) * 4, (UNREADY,) * 4, (READY, READY, UNREADY, UNREADY)], 1, {1, 2}),
    ],
)
def test_pods_that_all_turn_unready_at_once_stay_listed(
    states: list[tuple[tuple[bool, bool], ...]], seconds: float, listed: set[int]
) -> None:
    """`seconds`: time between two changes."""
    times = itertools.count(step=seconds)
    listing, found = Listing(lambda: next(times)), frozenset[str]()
    for pods in states:
        endpoints = [
            endpoint(f"10.0.0.{number}", f"pod-{number}", ready=ready, terminating=terminating)
            for number, (ready, terminating) in enumerate(pods, start=1)
        ]
        found = listing.update([endpoint_slice("a", "decode", endpoints)], "")
    assert found == {f"10.0.0.{number}:50061" for number in listed}


async def test_a_watch_that_ends_continues_from_its_last_version(api: KubeApi) -> None:
    async with watching() as sets:
        await anext(sets)
        await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]))
        await anext(sets)
        change = asyncio.ensure_future(anext(sets))
        await api.bookmark()
        await api.end_watches(cut=False)
        await api.asked("watch", 2)
        await api.put(endpoint_slice("b", "decode", [endpoint("10.0.0.2", "two")]))
        assert await change == {"10.0.0.1:50061", "10.0.0.2:50061"}
    assert api.requests["list"] == 1
    assert api.watched_from[0] == "100"
    assert int(api.watched_from[1]) >= 101


async def test_all_slices_are_listed_again_when_the_version_is_too_old(api: KubeApi) -> None:
    await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]))
    async with watching() as sets:
        await anext(sets)
        change = asyncio.ensure_future(anext(sets))
        await api.asked("watch", 1)
        await api.put(endpoint_slice("llm", "llm", [endpoint("10.9.9.9", "llm")]))  # the watch does not receive this
        api.compact()
        await api.end_watches(cut=False)
        await api.asked("list", 2)
        await api.put(endpoint_slice("b", "decode", [endpoint("10.0.0.2", "two")]))
        assert await change == {"10.0.0.1:50061", "10.0.0.2:50061"}
    assert failures() == 0


@pytest.mark.parametrize("trouble", ["away", "cut", "forbidden", "failing"])
async def test_a_failure_keeps_the_last_known_workers(api: KubeApi, trouble: str) -> None:
    before = failures()
    await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]))
    async with watching() as sets:
        assert await anext(sets) == {"10.0.0.1:50061"}
        change = asyncio.ensure_future(anext(sets))
        await api.asked("watch", 1)
        api.refuse = {"forbidden": 403, "failing": 500}.get(trouble)
        if trouble == "away":
            await api.stop()
            await asyncio.sleep(0.3)  # attempts meet a closed port
        else:
            await api.end_watches(cut=True)
            await api.asked("list", 2)
        assert not change.done()
        api.refuse = None
        await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.2", "two")]))
        if trouble == "away":
            await api.start()
        assert await change == {"10.0.0.2:50061"}
    assert failures() > before


async def test_an_api_server_that_is_away_at_the_start_is_waited_for(api: KubeApi) -> None:
    await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]))
    await api.stop()
    async with watching() as sets:
        first = asyncio.ensure_future(anext(sets))
        await asyncio.sleep(0.2)
        assert not first.done()
        await api.start()
        assert await first == {"10.0.0.1:50061"}


async def test_without_a_cluster_nothing_is_delivered_until_there_is_one(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late"
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(late))
    async with watching("kubernetes:///decode") as sets:
        first = asyncio.ensure_future(anext(sets))
        await asyncio.sleep(0.2)
        assert not first.done()
        write_kubeconfig(late, api.port)
        assert await first == frozenset()
    assert failures("kubernetes:///decode") > 0


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1; its key is in the same folder, as key.pem."""
    path = tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=kube", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    keys = ["-addext", "keyUsage=digitalSignature,keyCertSign", "-keyout", str(tmp_path / "key.pem")]
    subprocess.run([*command, *names, *keys, "-out", str(path)], check=True, capture_output=True)
    return path


def damaged(file: Path) -> Callable[[], object]:
    """Cut the end off; return a function that writes it whole again."""
    whole = file.read_text()
    file.write_text(whole[:300])
    return lambda: file.write_text(whole)


async def test_in_a_pod_the_mounted_token_and_certificate_are_used(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    (tmp_path / "token").write_text("of-the-pod")
    (tmp_path / "namespace").write_text("speech\n")
    loader = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setattr(discovery_module, "NAMESPACE_FILE", tmp_path / "namespace")
    async with KubeApi(context) as api:
        api.rights = {"of-the-pod": frozenset({"list", "watch"})}
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        await api.put(endpoint_slice("a", "decode", [endpoint("10.0.0.1", "one")]))
        restore = damaged(certificate)  # for example, while it is replaced
        async with watching("kubernetes:///decode:grpc") as sets:
            first = asyncio.ensure_future(anext(sets))
            await asyncio.sleep(0.2)
            assert not first.done()
            restore()
            assert await first == {"10.0.0.1:50061"}
