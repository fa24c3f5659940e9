"""The pool with workers that a Kubernetes API server lists, when it says that none of them is ready."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.common.discovery import discover
from services.common.pool import WorkerState
from tests.integration.test_pool import all_serving, picks, running, state, until
from tests.support.kube_api import KubeApi, endpoint, endpoint_slice, write_kubeconfig
from tests.support.workers import NOT_SERVING, EchoWorker


async def test_endpoints_that_all_turn_unready_are_used_while_they_answer_our_health_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [EchoWorker() for _ in range(3)]
    async with KubeApi() as api, AsyncExitStack() as stack:
        for worker in workers:
            await worker.start()
            stack.push_async_callback(worker.kill)
        write_kubeconfig(tmp_path / "config", api.port)
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))

        async def publish(worker: EchoWorker, *, ready: bool) -> None:
            pods = [endpoint("127.0.0.1", worker.address, ready=ready)]
            await api.put(endpoint_slice(worker.address, "decode", pods, ports={"grpc": worker.port}))

        a, b, late = workers
        await publish(a, ready=True)
        await publish(b, ready=True)
        async with running(discover("kubernetes:///decode.speech")) as pool:
            await all_serving(pool, 2)
            await publish(a, ready=False)
            await until(lambda: state(pool, a) is None)
            await publish(b, ready=False)
            await publish(late, ready=True)
            await all_serving(pool, 3)
            assert await picks(pool, 6) == {a.address: 2, b.address: 2, late.address: 2}
            await a.report(NOT_SERVING)
            await b.report(NOT_SERVING)
            await until(lambda: {state(pool, a), state(pool, b)} == {WorkerState.NOT_SERVING})
            assert await picks(pool, 2) == {late.address: 2}
            await api.stop()
