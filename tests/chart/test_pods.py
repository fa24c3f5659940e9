"""Single pods and Jobs as rendered, run as processes: all in one pod, a fetched model, prepared engines, bad models."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cli.local.ports import free_ports
from cli.local.process import is_serving
from services.common.settings import EMBEDDED_MODEL
from tests.support.cluster import Cluster
from tests.support.helm import ROOT, VERSIONS, helm
from tests.support.kubelet import Manifest
from tests.support.model_hub import ModelHub

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

MINI = ROOT / "tests" / "data" / "cosyvoice2-mini"


def rendered(profile: str, *settings: str) -> list[Manifest]:
    return helm(VERSIONS[-1]).render(profile, *settings)


def of(objects: list[Manifest], kind: str, component: str) -> Manifest:
    return next(
        item
        for item in objects
        if item["kind"] == kind and item["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )


def only(objects: list[Manifest], *components: str) -> list[Manifest]:
    """The release with one pod of each of these Deployments, and none of the others."""
    for item in objects:
        if item["kind"] == "Deployment":
            wanted = item["metadata"]["labels"]["app.kubernetes.io/component"] in components
            item["spec"]["replicas"] = int(wanted)
    return objects


async def test_one_pod_runs_everything_and_speaks(tmp_path: Path) -> None:
    ports = free_ports(1)
    objects = rendered(
        "values-single-gpu.yaml",
        'profile="cpu"',
        'model.mode="embedded"',
        "single.gpu.count=0",
        'single.settings={"drain_grace_seconds":5}',
        f'single.containerPorts={{"grpc":{ports.gateway.grpc},"http":{ports.http},"cosyvoice":{ports.cosyvoice}}}',
    )
    async with Cluster(objects, tmp_path) as cluster:
        code, output = await cluster.run(of(objects, "Pod", "test"))
        assert code == 0, output
        assert "real-time factor" in output
        async with grpc.aio.insecure_channel(cluster.reach("light-tts-single", "cosyvoice")) as channel:
            await asyncio.wait_for(channel.channel_ready(), 5)
        (pod,) = cluster.running("single")
        await cluster.delete(pod)
        assert not await is_serving(f"{pod.address}:{ports.gateway.grpc}")


async def test_a_model_is_fetched_once_and_pods_wait_for_it(tmp_path: Path) -> None:
    files = {str(path.relative_to(MINI)): path.read_bytes() for path in MINI.rglob("*") if path.is_file()}
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text("a token", encoding="utf-8")
    with ModelHub("FunAudioLLM/CosyVoice2-0.5B", files) as hub:
        objects = rendered(
            "values-cpu.yaml",
            'model.mode="pvc"',
            'model.fetch.tokenSecret.name="hub"',
            f'model.fetch.extraEnvVars=[{{"name":"HF_ENDPOINT","value":"{hub.url}"}}]',
        )
        async with Cluster(
            only(objects, "encode"), tmp_path / "pods", {"hub": tmp_path / "hub"}, wait=False
        ) as cluster:
            (pod,) = cluster.running("encode")
            job = of(objects, "Job", "fetch")
            for _ in range(2):
                code, output = await cluster.run(job)
                assert code == 0, output
            assert "checksums are correct" in output
            assert len(hub.sent) == len(set(hub.sent))
            assert hub.tokens == {"a token"}
            await cluster.until(lambda: pod.ready, pod)


async def test_engines_are_built_ahead_by_a_job_for_all_decode_pods(tmp_path: Path) -> None:
    objects = rendered(
        "values-cpu.yaml",
        "engineCache.pvc.enabled=true",
        "engineCache.prepare.enabled=true",
        'decode.settings.decode_backend="onnx"',
    )
    async with Cluster(only(objects), tmp_path) as cluster:
        code, output = await cluster.run(of(objects, "Job", "prepare"))
        assert code == 0, output
        (engine,) = (tmp_path / "claims" / "light-tts-engines").rglob("*.onnx")
        built = engine.stat().st_mtime_ns
        await cluster.scale("decode")
        (found,) = (tmp_path / "claims" / "light-tts-engines").rglob("*")
        assert (found, found.stat().st_mtime_ns) == (engine, built)


def cut(name: str) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).unlink()  # a link to the embedded one
        (model / name).write_bytes(content[: len(content) // 2])

    return damage


@pytest.mark.parametrize(
    ("component", "damage", "words"),
    [
        ("encode", lambda model: shutil.rmtree(model), ("does not exist", "LIGHTTTS_MODEL_DIR")),
        ("encode", cut("campplus.onnx"), ("campplus.onnx",)),
        ("llm", cut("llm.pt"), ("llm.pt", "fetch it again")),
        ("decode", cut("flow.pt"), ("flow.pt", "fetch it again")),
        ("decode", lambda model: (model / "hift.pt").unlink(), ("hift.pt",)),
    ],
    ids=["no model", "encode", "llm", "decode", "decode lacks a file"],
)
async def test_a_pod_whose_model_is_missing_or_damaged_never_becomes_ready_and_says_why(
    tmp_path: Path, component: str, damage: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    model = tmp_path / "models" / "mine"
    shutil.copytree(EMBEDDED_MODEL, model, copy_function=os.link)
    damage(model)
    objects = rendered(
        "values-cpu.yaml",
        'model.mode="hostPath"',
        f'model.hostPath.path="{model.parent}"',
        'model.name="mine"',
    )
    async with Cluster(only(objects, component), tmp_path / "pods", wait=False) as cluster:
        (pod,) = cluster.running(component)
        await cluster.until(lambda: pod.restarts == 1, pod)
        assert pod.ready_at == 0
        assert all(word in pod.termination_message() for word in words), pod.termination_message()
