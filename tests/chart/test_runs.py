"""What the chart says is what runs: its pods as processes, found, added, drained and killed as in a cluster."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
import yaml
from numpy.typing import NDArray

from cli.client import ClientError, Speech, speak
from cli.local.process import is_serving
from cli.say import make_config
from gateway.auth.keys import key_hash, new_key
from lighttts.v1.audio_pb2 import AudioChunk
from tests.support.certificates import Authority
from tests.support.cluster import Cluster, Pod
from tests.support.helm import VERSIONS, helm

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

LONG = "And who is this person you are speaking of?"
SHORT = "We do not tell."
SETTINGS = ("llm.settings.lead_seconds=2", "decode.settings.drain_notice_seconds=0")
"""So that there is something to interrupt: no tokens far ahead, and a drained pod hands over at once."""

RIGHTS_MISSING = "the service account needs get, list and watch of endpointslices in speech"


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["kubernetes", "dns"])
async def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    objects = helm(VERSIONS[-1]).render("values-cpu.yaml", *SETTINGS, f'discovery="{request.param}"')
    async with Cluster(objects, tmp_path_factory.mktemp(request.param)) as cluster:
        yield cluster


async def say(
    cluster: Cluster, text: str, on_first_chunk: Callable[[], None] = lambda: None
) -> tuple[Speech, NDArray[np.float32]]:
    """One text through the gateway, and its samples."""
    parts: list[bytes] = []

    def take(chunk: AudioChunk) -> None:
        parts.append(chunk.pcm)
        if len(parts) == 1:
            on_first_chunk()

    scheme = "https://" if "LIGHTTTS_SERVER_CA" in os.environ else ""
    server = cluster.reach("light-tts-gateway", "grpc")
    speech = await speak(scheme + server, make_config("anna", None, None, 7, 1.0), text, take)
    return speech, np.frombuffer(b"".join(parts), "<i2").astype(np.float32) / np.float32(32768)


async def workers_of(cluster: Cluster, utterances: int) -> list[str]:
    return [(await say(cluster, SHORT))[0].decode_workers[0] for _ in range(utterances)]


def names(cluster: Cluster) -> set[str]:
    return {pod.name for pod in cluster.running("decode")}


async def metrics_of(pod: Pod) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{pod.address}:{pod.port('metrics')}/metrics")).text


async def known_to_llm(cluster: Cluster, address: str) -> bool:
    """Whether the llm pod's pool would give this decode worker an utterance, as its metrics tell."""
    text = await metrics_of(cluster.running("llm")[0])
    return re.search(rf'lighttts_pool_healthy{{pool="decode",worker="{re.escape(address)}"}} 1', text) is not None


async def test_every_decode_pod_speaks(cluster: Cluster) -> None:
    assert set(await workers_of(cluster, 4)) == names(cluster)
    assert len(names(cluster)) == 2


async def test_the_test_of_helm_passes(cluster: Cluster) -> None:
    (pod,) = [item for item in cluster.objects if item["kind"] == "Pod"]
    code, output = await cluster.run(pod)
    assert code == 0, output
    assert "real-time factor" in output


async def test_the_commands_of_the_notes_work(cluster: Cluster, tmp_path: Path) -> None:
    notes = helm(VERSIONS[-1]).notes("values-cpu.yaml")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for program, door, file in (("light-tts say", "grpc", "out.wav"), ("curl", "http", "out.mp3")):
        (command,) = [line.strip() for line in notes.splitlines() if line.strip().startswith(program)]
        here = re.sub(r"127\.0\.0\.1:\d+", cluster.reach("light-tts-gateway", door), command)
        process = await asyncio.create_subprocess_exec("bash", "-c", here, cwd=tmp_path, env=environment)
        assert await process.wait() == 0, here
        assert (tmp_path / file).stat().st_size > 1000


async def test_an_added_pod_is_used_soon_after_it_is_ready(cluster: Cluster) -> None:
    pod = await cluster.scale("decode")
    while not await known_to_llm(cluster, f"{pod.address}:{pod.port('grpc')}"):
        assert time.monotonic() - pod.ready_at < 10, "the llm pod does not see the new decode pod"
    assert time.monotonic() - pod.ready_at < 2
    assert pod.name in await workers_of(cluster, 3)


async def next_in_turn(cluster: Cluster) -> Pod:
    """The decode pod that the next utterance goes to: the one after the last, by address."""
    (last,) = await workers_of(cluster, 1)
    pods = sorted(cluster.running("decode"), key=lambda pod: f"{pod.address}:")
    return pods[([pod.name for pod in pods].index(last) + 1) % len(pods)]


def assert_continued(disturbed: Speech, samples: NDArray[np.float32], undisturbed: NDArray[np.float32]) -> None:
    assert any("moved to another worker" in warning for warning in disturbed.warnings)
    assert samples.shape == undisturbed.shape
    np.testing.assert_allclose(samples, undisturbed, atol=1e-3)


async def test_speech_outlives_the_end_of_its_pod(cluster: Cluster) -> None:
    _, undisturbed = await say(cluster, LONG)
    pod = await next_in_turn(cluster)
    ending: list[asyncio.Task[int]] = []
    speech, samples = await say(cluster, LONG, lambda: ending.append(asyncio.create_task(cluster.delete(pod))))
    assert await ending[0] == 0, pod.log_tail()
    assert_continued(speech, samples, undisturbed)
    assert pod.name not in await workers_of(cluster, 3)


async def test_speech_outlives_the_death_of_its_pod_and_the_pod_comes_back(cluster: Cluster) -> None:
    _, undisturbed = await say(cluster, LONG)
    pod = await next_in_turn(cluster)
    speech, samples = await say(cluster, LONG, pod.kill)
    assert_continued(speech, samples, undisturbed)
    await cluster.until(lambda: pod.restarts == 1 and pod.ready, pod)
    while not await known_to_llm(cluster, f"{pod.address}:{pod.port('grpc')}"):
        assert time.monotonic() - pod.ready_at < 10, "the llm pod does not see the decode pod again"
    assert pod.name in await workers_of(cluster, 2)


async def test_discovery_outlives_the_api_server(cluster: Cluster) -> None:
    await cluster.api.stop()
    assert set(await workers_of(cluster, 4)) == names(cluster)
    await cluster.api.start()


async def test_with_tls_everywhere_and_api_keys_strangers_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {name: tmp_path / name for name in ("certificates", "public", "api-keys", "test-key")}
    Authority(tmp_path / "authority").issue(secrets["certificates"])
    public = Authority(tmp_path / "public-authority")
    public.issue(secrets["public"], "tts.example")
    key = new_key()
    secrets["api-keys"].mkdir()
    entry = {"name": "test", "sha256": key_hash(key)}
    (secrets["api-keys"] / "keys.yaml").write_text(yaml.safe_dump({"keys": [entry]}), encoding="utf-8")
    secrets["test-key"].mkdir()
    (secrets["test-key"] / "key").write_text(key, encoding="utf-8")
    settings = (
        "tls.enabled=true",
        'tls.existingSecret="certificates"',
        'gateway.tls={"existingSecret":"public","serverName":"tts.example"}',
        'gateway.apiKeys.existingSecret="api-keys"',
        'tests.apiKey.existingSecret="test-key"',
    )
    objects = helm(VERSIONS[-1]).render("values-cpu.yaml", *settings)
    async with Cluster(objects, tmp_path / "pods", secrets) as cluster:
        (test,) = [item for item in objects if item["kind"] == "Pod"]
        code, output = await cluster.run(test)
        assert code == 0, output
        with pytest.raises(ClientError, match="not with plain gRPC"):
            await say(cluster, SHORT)
        monkeypatch.setenv("LIGHTTTS_SERVER_NAME", "tts.example")
        monkeypatch.setenv("LIGHTTTS_SERVER_CA", str(tmp_path / "authority" / "ca.crt"))
        with pytest.raises(ClientError, match="not over TLS with a trusted certificate"):
            await say(cluster, SHORT)
        monkeypatch.setenv("LIGHTTTS_SERVER_CA", str(public.certificate))
        with pytest.raises(ClientError, match="UNAUTHENTICATED"):
            await say(cluster, SHORT)
        monkeypatch.setenv("LIGHTTTS_API_KEY", key)
        assert set(await workers_of(cluster, 4)) == names(cluster)
        for component in ("encode", "llm", "decode"):
            (pod, *_) = cluster.running(component)
            assert not await is_serving(f"{pod.address}:{pod.port('grpc')}")
            assert await is_serving(f"{pod.address}:{pod.port('health')}")


async def test_a_gateway_without_the_right_to_watch_finds_nobody(tmp_path: Path) -> None:
    objects = helm(VERSIONS[-1]).render("values-cpu.yaml")
    granted = [item for item in objects if item["kind"] != "RoleBinding"]
    wanted = [item for item in granted if item["kind"] != "Deployment" or item["metadata"]["name"].endswith("gateway")]
    async with Cluster(wanted, tmp_path, wait=False) as cluster:
        (pod,) = cluster.running("gateway")
        async with asyncio.timeout(60):
            while RIGHTS_MISSING not in pod.log_tail():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.1)
        assert not pod.ready
