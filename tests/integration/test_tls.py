"""Mutual TLS on real connections: accepted clients, renewed files, and probes without a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from cli.local.ports import free_ports
from services.common.discovery import discover
from services.common.pool import Pool, dialler
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from services.common.start_error import StartError
from services.common.tls import TlsError, TlsFiles
from tests.support.certificates import Authority, not_after
from tests.support.llm import until

SERVING = health_pb2.HealthCheckResponse.SERVING


class Nothing:
    """A service without methods."""

    name = "nothing"
    rpc_services: tuple[str, ...] = ("test.Nothing",)

    def register(self, server: grpc.aio.Server) -> None: ...
    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...


def settings(files: TlsFiles | None, **more: Any) -> ServiceSettings:
    if files is not None:
        more |= {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
    return ServiceSettings(**more)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    return authority.issue(tmp_path / "server")


@pytest_asyncio.fixture
async def server(files: TlsFiles) -> AsyncIterator[ServiceServer]:
    server = ServiceServer(Nothing(), settings(files))
    await server.start()
    yield server
    await server.close()


async def status(channel: grpc.aio.Channel, service: str = "") -> int:
    async with channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=400)
        return int(answer.status)


async def test_a_client_of_the_same_authority_is_accepted(
    server: ServiceServer, authority: Authority, tmp_path: Path
) -> None:
    client = settings(authority.issue(tmp_path / "client"))
    assert await status(dialler(client)(server.address)) == SERVING


async def test_other_clients_are_refused(server: ServiceServer, files: TlsFiles, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger").issue(tmp_path / "client")
    assert files.authority is not None
    only_trust = grpc.ssl_channel_credentials(files.authority.read_bytes())
    name = (("grpc.ssl_target_name_override", "light-tts.internal"),)
    for channel in (
        dialler(settings(None))(server.address),
        dialler(settings(stranger))(server.address),
        dialler(settings(TlsFiles(stranger.certificate, stranger.key, files.authority)))(server.address),
        grpc.aio.secure_channel(server.address, only_trust, name),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await status(channel)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_server_with_another_name_is_refused(
    server: ServiceServer, authority: Authority, tmp_path: Path
) -> None:
    client = settings(authority.issue(tmp_path / "client"), tls_server_name="other.internal")
    with pytest.raises(grpc.aio.AioRpcError):
        await status(dialler(client)(server.address))


async def test_renewed_files_are_used_by_the_next_connection(
    server: ServiceServer, files: TlsFiles, tmp_path: Path
) -> None:
    new = Authority(tmp_path / "new")
    dial = dialler(settings(files))
    new.issue(files.certificate.parent)
    assert await status(dial(server.address)) == SERVING
    assert await status(dialler(settings(new.issue(tmp_path / "client")))(server.address)) == SERVING


async def test_the_end_of_the_certificate_in_use_is_a_metric(
    server: ServiceServer, files: TlsFiles, authority: Authority
) -> None:
    def reported() -> float | None:
        labels = {"file": str(files.certificate)}
        return REGISTRY.get_sample_value("lighttts_tls_certificate_expiry_timestamp_seconds", labels)

    first = not_after(files.certificate)
    assert reported() == first
    authority.issue(files.certificate.parent, days=30)
    with files.certificate.open("ab") as chain:
        chain.write(authority.certificate.read_bytes())
    assert await status(dialler(settings(files))(server.address)) == SERVING
    assert reported() == not_after(files.certificate), "the first certificate of the chain counts"
    assert first < not_after(files.certificate) < not_after(authority.certificate)


async def test_a_pool_dials_again_after_a_renewal_and_streams_keep_their_connection(
    server: ServiceServer,
    files: TlsFiles,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.common.pool.pool.DIAL_SECONDS", 1.0)
    mine = authority.issue(tmp_path / "client")
    dial, address = dialler(settings(mine)), f"static:///{server.address}"
    pool = Pool(discover(address), "test.Nothing", name="renewed", dial=dial, renewal_seconds=0.02)
    new = Authority(tmp_path / "new")
    async with asyncio.timeout(400):
        await pool.start()
        async with pool.lease() as running:
            stub: Any = health_pb2_grpc.HealthStub(running.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            Authority(tmp_path / "stranger").issue(mine.certificate.parent)
            await asyncio.sleep(0.1)
            async with pool.lease() as lease:
                assert lease.channel is running.channel, "a certificate that no worker accepts is not used"
            new.issue(files.certificate.parent)  # from now on the server accepts only the new authority
            new.issue(mine.certificate.parent)
            renewed = running.channel
            while renewed is running.channel:
                await asyncio.sleep(0.01)
                async with pool.lease() as lease:
                    renewed = lease.channel
            stub = health_pb2_grpc.HealthStub(renewed)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
            await server._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            old = running.channel
        await until(lambda: old.get_state() is grpc.ChannelConnectivity.SHUTDOWN)
        await pool.close()


async def test_damaged_files_leave_the_certificate_in_use(server: ServiceServer, files: TlsFiles) -> None:
    dial = dialler(settings(files))
    files.certificate.write_text("half a file")
    assert await status(dial(server.address)) == SERVING


async def test_probes_without_a_certificate_have_a_separate_port(files: TlsFiles) -> None:
    port = free_ports(1).http
    server = ServiceServer(Nothing(), settings(files, health_port=port))
    await server.start()
    try:
        for service in ("", "liveness", "readiness", "test.Nothing"):
            assert await status(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), service) == SERVING
    finally:
        await server.close()


async def test_a_gateway_accepts_applications_without_certificates(files: TlsFiles) -> None:
    server = ServiceServer(Nothing(), settings(files, tls_listen=False))
    await server.start()
    try:
        assert await status(grpc.aio.insecure_channel(server.address)) == SERVING
    finally:
        await server.close()


async def test_files_that_are_missing_are_named(files: TlsFiles) -> None:
    files.key.unlink()
    server = ServiceServer(Nothing(), settings(files))
    with pytest.raises(StartError, match=r"cannot read .*tls\.key"):
        await server.start()
    await server.close()
    with pytest.raises(TlsError, match=r"tls\.key"):
        dialler(settings(files))


def test_half_of_the_files_is_refused(files: TlsFiles, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ServiceSettings.from_command_line(["--tls-cert", str(files.certificate)])
    assert "needs tls_cert, tls_key and tls_ca; only tls_cert is given" in capsys.readouterr().err
