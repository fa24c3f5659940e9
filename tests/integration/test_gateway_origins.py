"""A page of another site can neither use a gateway without keys nor register voices in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.auth.keys import key_hash
from gateway.settings import GatewaySettings
from tests.support.fake_stages import Rig, rig

STRANGER = "https://evil.example"
KEY = "ltts_a-key"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - compared, not bound


async def post(r: Rig, **headers: str) -> int:
    answer = await r.http.post("/v1/audio/speech", json={"input": "Hi."}, headers=headers)
    if answer.status_code == 403:
        assert "may not send this request" in answer.json()["error"]["message"]
    return answer.status_code


async def opens(r: Rig, origin: str | None) -> bool:
    url = f"ws://127.0.0.1:{r.gateway.http_port}/inference_zero_shot_bistream"
    try:
        async with connect(url, proxy=None, additional_headers={} if origin is None else {"origin": origin}):
            return True
    except InvalidStatus as refusal:
        if refusal.response.status_code != 403:
            raise
        return False


async def test_pages_of_other_sites_change_nothing_and_open_no_socket() -> None:
    async with rig(cosyvoice_port=0) as r:
        own = f"http://127.0.0.1:{r.gateway.http_port}"
        for origin in (STRANGER, "null", "http://127.0.0.1:1", own.replace("127.0.0.1", "localhost"), f"{own}0"):
            assert await post(r, origin=origin) == 403
            assert not await opens(r, origin)
        form = {"name": "Mine", "ref_text": "hello", "consent": "true"}
        for method, path, port in (
            ("POST", "/v1/audio/voices", r.gateway.http_port),
            ("DELETE", "/v1/audio/voices/Mine", r.gateway.http_port),
            ("POST", "/inference_sft", r.gateway.cosyvoice_port),
        ):
            url = f"http://127.0.0.1:{port}{path}"
            answer = await r.http.request(method, url, data=form, headers={"origin": STRANGER})
            assert answer.status_code == 403, path
        assert not r.encode.uploads
        assert not r.llm.calls


async def test_programs_and_the_servers_own_page_are_served() -> None:
    async with rig() as r:
        own = f"http://127.0.0.1:{r.gateway.http_port}"
        assert await post(r) == 200
        assert await post(r, origin=own) == 200
        assert await post(r, origin="https://tts.example", **{"sec-fetch-site": "same-origin"}) == 200
        assert await opens(r, None)
        assert await opens(r, own)
        assert (await r.http.get("/v1/models", headers={"origin": STRANGER})).status_code == 200, "changes nothing"


@pytest.mark.parametrize("allowed", [STRANGER, "*"])
async def test_configured_origins_are_served(allowed: str) -> None:
    async with rig(cors_origins=(allowed,)) as r:
        assert await post(r, origin=STRANGER) == 200
        assert await opens(r, STRANGER)


async def test_a_page_of_a_configured_origin_can_read_the_headers_of_an_answer() -> None:
    """A browser hides all others from it."""
    async with rig(cors_origins=(STRANGER,)) as r:
        body = {"input": "Hi.", "voice": "anna", "instructions": "Whisper."}
        answer = await r.http.post("/v1/audio/speech", json=body, headers={"origin": STRANGER})
        shown = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        own = {name for name in answer.headers if name.startswith("x-")}
        assert {"x-sample-rate", "x-synthetic-speech"} <= own <= shown
        assert {"retry-after", "x-light-tts-warning"} <= shown


async def test_a_page_behind_tls_of_a_proxy_is_the_same_site() -> None:
    async with rig(allowed_hosts=("tts.example",)) as r:
        assert await post(r, origin="https://tts.example", host="tts.example") == 200
        assert await post(r, origin="https://tts.example:8443", host="tts.example:8443") == 200
        assert await post(r, origin="https://tts.example", host="tts.example:8443") == 403


async def test_a_local_gateway_without_keys_is_not_called_by_other_names() -> None:
    """A page whose own name resolves to 127.0.0.1 has equal Origin and Host."""
    async with rig() as r:
        rebound = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
        for method, path in (("GET", "/"), ("GET", "/v1/audio/voices"), ("POST", "/v1/audio/speech")):
            answer = await r.http.request(method, path, headers=rebound)
            assert answer.status_code == 403, path
            assert "LIGHTTTS_ALLOWED_HOSTS" in answer.text
        for name in ("localhost:8080", "127.0.0.1", "[::1]:8080", "app.localhost", "LOCALHOST."):
            assert (await r.http.get("/", headers={"host": name})).status_code == 200, name


async def test_an_allowed_name_is_served_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{{name: app, sha256: {key_hash(KEY)}}}]")
    async with rig(api_keys_file=path, allowed_hosts=("TTS.example",)) as r:
        for name, status in (("tts.example", 200), ("tts.example:443", 200), ("other.example", 403), ("", 403)):
            assert (await r.http.get("/", headers={"host": name})).status_code == status, name


@pytest.mark.parametrize(
    ("settings", "checked"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "[::1]"}, True),
        ({"host": EVERYWHERE}, False),
        ({"host": "[::]"}, False),
        ({"api_keys_file": "keys.yaml"}, False),
        ({"host": EVERYWHERE, "allowed_hosts": ("tts.example",)}, True),
    ],
)
def test_host_names_are_checked_by_default_only_where_no_ingress_can_be(
    settings: dict[str, Any], checked: bool
) -> None:
    assert (GatewaySettings(**settings).checked_hosts is not None) is checked
