"""TLS for applications: gRPC and HTTPS with one certificate, renewal at run time, optional client certificates."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from cli.client import Access, ClientError, list_voices
from cli.local.ports import free_ports
from gateway.auth.keys import key_hash
from gateway.settings import GatewaySettings
from lighttts.v1 import tts_pb2, tts_pb2_grpc
from services.common.server import ServiceServer
from services.common.start_error import StartError
from tests.support.certificates import Authority
from tests.support.fake_stages import Rig, rig, until
from tests.support.second_gateway import second_gateway

NAME = "light-tts.internal"


async def voices(r: Rig, authority: bytes, client: tuple[bytes, bytes] | None = None) -> list[str]:
    key, certificate = client or (None, None)
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(r.server.address, credentials, options=options) as channel:
        answer = await tts_pb2_grpc.VoicesStub(channel).ListVoices(tts_pb2.ListVoicesRequest(), timeout=400)
        return [voice.name for voice in answer.voices]


async def models(r: Rig, context: ssl.SSLContext) -> int:
    url = f"https://127.0.0.1:{r.gateway.http_port}"
    async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=400) as http:
        request = http.build_request("GET", "/query_tts_model", extensions={"sni_hostname": NAME})
        return (await http.send(request)).status_code


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


def public(folder: Path, **more: Any) -> dict[str, Any]:
    files = {"public_tls_cert": folder / "tls.crt", "public_tls_key": folder / "tls.key"}
    return {"tls_listen": False} | files | more


async def test_grpc_and_https_show_one_certificate_and_renew_it(tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    first.issue(tmp_path / "mounted")
    async with rig() as plain, second_gateway(plain, **public(tmp_path / "mounted")) as r:
        assert await voices(r, first.certificate.read_bytes()) == ["hugo", "anna"]
        assert await models(r, trusting(first)) == 200
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await voices(r, second.certificate.read_bytes())
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(httpx.ConnectError):
            await models(r, trusting(second))
        second.issue(tmp_path / "mounted")
        assert await voices(r, second.certificate.read_bytes()) == ["hugo", "anna"]
        assert await models(r, trusting(second)) == 200


async def test_the_port_of_cosyvoices_clients_serves_nothing_in_plaintext(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    authority.issue(tmp_path / "mounted")
    async with rig() as plain, second_gateway(plain, **public(tmp_path / "mounted"), cosyvoice_port=0) as r:
        port = r.gateway.cosyvoice_port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await tts_pb2_grpc.VoicesStub(channel).ListVoices(tts_pb2.ListVoicesRequest(), timeout=400)
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False, timeout=400) as http:
                await http.get(f"http://127.0.0.1:{port}/liveness")
        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        options = [("grpc.ssl_target_name_override", NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            stub = tts_pb2_grpc.VoicesStub(channel)
            answer = await stub.ListVoices(tts_pb2.ListVoicesRequest(), timeout=400)
        assert answer.default_voice == "hugo"
        async with httpx.AsyncClient(verify=trusting(authority), trust_env=False, timeout=400) as http:
            url = f"https://127.0.0.1:{port}/liveness"
            request = http.build_request("GET", url, extensions={"sni_hostname": NAME})
            assert (await http.send(request)).status_code == 200


async def test_a_broken_renewal_leaves_the_certificate_in_use(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    files = authority.issue(tmp_path / "mounted")
    async with rig() as plain, second_gateway(plain, **public(tmp_path / "mounted")) as r:
        authority.issue(tmp_path / "other")
        files.certificate.write_bytes((tmp_path / "other" / "tls.crt").read_bytes())  # the key is still the old one
        assert await voices(r, authority.certificate.read_bytes()) == ["hugo", "anna"]
        assert await models(r, trusting(authority)) == 200
        files.key.unlink()
        assert await models(r, trusting(authority)) == 200


async def test_with_an_authority_applications_need_a_certificate_and_probes_do_not(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    authority.issue(tmp_path / "mounted")
    mine, theirs = authority.issue(tmp_path / "mine", "app"), stranger.issue(tmp_path / "theirs", "app")
    settings = public(tmp_path / "mounted", public_tls_ca=authority.certificate, health_port=free_ports(1).http)
    async with rig() as plain, second_gateway(plain, **settings) as r:
        root = authority.certificate.read_bytes()
        assert await voices(r, root, (mine.key.read_bytes(), mine.certificate.read_bytes())) == ["hugo", "anna"]
        for client in (None, (theirs.key.read_bytes(), theirs.certificate.read_bytes())):
            with pytest.raises(grpc.aio.AioRpcError):
                await voices(r, root, client)
        known = trusting(authority)
        known.load_cert_chain(mine.certificate, mine.key)
        assert await models(r, known) == 200
        with pytest.raises(httpx.TransportError):
            await models(r, trusting(authority))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{settings['health_port']}") as probe:
            stub: Any = health_pb2_grpc.HealthStub(probe)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=400)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_with_tls_listen_http_too_needs_a_certificate_of_the_services_authority(tmp_path: Path) -> None:
    from gateway.server import GatewayService

    authority = Authority(tmp_path / "authority")
    files = authority.issue(tmp_path / "mounted")
    settings = GatewaySettings(
        port=0,
        http_port=0,
        cosyvoice_port="off",
        tls_listen=True,
        tls_cert=files.certificate,
        tls_key=files.key,
        tls_ca=files.authority,
    )
    service = GatewayService(settings)
    starting = asyncio.create_task(service.start())  # HTTP listens before the workers are found
    await until(lambda: bool(service.http_port))
    known = trusting(authority)
    known.load_cert_chain(files.certificate, files.key)
    try:
        for context, served in ((known, True), (trusting(authority), False)):
            async with httpx.AsyncClient(verify=context, trust_env=False, timeout=400) as http:
                url = f"https://127.0.0.1:{service.http_port}/liveness"
                request = http.build_request("GET", url, extensions={"sni_hostname": NAME})
                if served:
                    assert (await http.send(request)).status_code == 200
                else:
                    with pytest.raises(httpx.TransportError):
                        await http.send(request)
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False, timeout=400) as http:
                await http.get(f"http://127.0.0.1:{service.http_port}/liveness")
    finally:
        starting.cancel()
        await asyncio.wait({starting})
        await service.close()


async def test_a_renewed_authority_applies_to_the_next_connection_over_grpc_and_https(tmp_path: Path) -> None:
    authorities = [Authority(tmp_path / name) for name in ("first", "second")]
    clients = [authority.issue(tmp_path / f"client{n}", "app") for n, authority in enumerate(authorities)]
    authorities[0].issue(tmp_path / "mounted")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authorities[0].certificate.read_bytes())
    settings = public(tmp_path / "mounted", public_tls_ca=trusted)
    async with rig() as plain, second_gateway(plain, **settings) as r:
        for trusted_one, other in ((0, 1), (1, 0)):
            trusted.write_bytes(authorities[trusted_one].certificate.read_bytes())
            for number in (trusted_one, other):
                files = clients[number]
                context = trusting(authorities[0])
                context.load_cert_chain(files.certificate, files.key)
                identity = files.key.read_bytes(), files.certificate.read_bytes()
                root = authorities[0].certificate.read_bytes()
                if number == trusted_one:
                    assert await voices(r, root, identity) == ["hugo", "anna"]
                    assert await models(r, context) == 200
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await voices(r, root, identity)
                    with pytest.raises(httpx.TransportError):
                        await models(r, context)


async def test_the_command_line_client_uses_authority_and_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    authority.issue(tmp_path / "mounted")
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash('ltts_a-key')}}}]")
    settings = public(tmp_path / "mounted", api_keys_file=tmp_path / "keys.yaml")
    async with rig() as plain, second_gateway(plain, **settings) as r:
        good = Access(f"https://{r.server.address}", authority.certificate, NAME, "ltts_a-key")
        assert (await list_voices(good)).default_voice == "hugo"
        for access, words in (
            (replace(good, key=""), r"an API key is needed .* Set LIGHTTTS_API_KEY or --api-key"),
            (replace(good, authority=None), "not over TLS with a trusted certificate"),
            (replace(good, server=r.server.address), "or add --tls"),
            (Access(f"127.0.0.1:{plain.gateway.http_port}"), "instead of the HTTP port"),
        ):
            with pytest.raises(ClientError, match=words):
                await list_voices(access)


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
async def test_a_certificate_that_cannot_be_used_stops_the_start(tmp_path: Path, missing: str) -> None:
    from gateway.server import GatewayService

    files = Authority(tmp_path / "authority").issue(tmp_path / "mounted")
    (files.certificate.parent / missing).write_text("nonsense")
    settings = GatewaySettings(port=0, http_port=0, cosyvoice_port="off", **public(tmp_path / "mounted"))
    server = ServiceServer(GatewayService(settings), settings)
    with pytest.raises(StartError, match="not a PEM file"):
        await server.start()
    await server.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"public_tls_cert": "a"}, "belong together"),
        ({"public_tls_ca": "a"}, "needs public_tls_cert"),
        ({"public_tls_cert": "a", "public_tls_key": "b", "tls_listen": True}, "exclude each other"),
        ({"public_tls_cert": "a", "public_tls_key": "b", "public_tls_ca": "c"}, "set cosyvoice_port to off"),
        ({"tls_cert": "a", "tls_key": "b", "tls_ca": "c", "tls_listen": True}, "set cosyvoice_port to off"),
        ({"tls_listen": True}, "tls_listen needs tls_cert"),
        ({"voice_store": "redis"}, "voice_store redis needs redis_url"),
        ({"result_cache": "redis"}, "result_cache redis needs redis_url"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GatewaySettings(**settings)
