"""Other people's clients, unmodified, against a running stack; the page in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.local.stack import Stack
from gateway.auth.keys import key_hash
from tests.support import peers
from tests.support.certificates import Authority
from tests.support.fake_stages import rig
from tests.support.peers import CHECKS, EXAMPLES, PROMPT

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]


async def test_openai_s_client(stack: Stack, tmp_path: Path) -> None:
    peers.need()
    await peers.run(CHECKS / "check_openai.py", stack.http_url, PROMPT, folder=tmp_path)


async def test_clients_for_javascript(stack: Stack, tmp_path: Path) -> None:
    peers.need("node")
    check = CHECKS / "check_node.mjs"
    await peers.run(check, peers.NODE_MODULES, folder=tmp_path, http=stack.http_url, program="node")


@pytest.mark.parametrize("check", ["check_litellm.py", "check_open_webui.py"])
async def test_clients_of_openai_s_api(stack: Stack, tmp_path: Path, check: str) -> None:
    peers.need()
    await peers.run("-W", "ignore", CHECKS / check, stack.http_url, folder=tmp_path)


async def test_home_assistant_s_bridge(stack: Stack, tmp_path: Path) -> None:
    if not peers.WYOMING.exists():
        pytest.skip("wyoming-openai is not installed: make test-system does that where Python 3.12 or newer is")
    await peers.run(CHECKS / "check_wyoming.py", stack.http_url, folder=tmp_path, program=peers.WYOMING)


async def test_riva_s_client(stack: Stack, tmp_path: Path) -> None:
    peers.need()
    await peers.run(CHECKS / "check_riva.py", stack.gateway.address, PROMPT, folder=tmp_path)


async def test_livekit_s_and_pipecat_s_plugins(stack: Stack, tmp_path: Path) -> None:
    peers.need()
    where = {"http": stack.http_url, "grpc": stack.gateway.address}
    await peers.run("-W", "ignore", CHECKS / "check_agents.py", EXAMPLES, folder=tmp_path, **where)


async def test_elevenlabs_s_client_and_plugins(stack: Stack, tmp_path: Path) -> None:
    peers.need()
    await peers.run("-W", "ignore", CHECKS / "check_elevenlabs.py", folder=tmp_path, http=stack.http_url)


async def test_elevenlabs_s_client_over_its_websocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers.need()
    files = Authority(tmp_path / "authority").issue(tmp_path / "tls", "localhost")
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash('ltts_a-key')}}}]")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    monkeypatch.setenv("LIGHTTTS_API_KEY", "ltts_a-key")
    async with rig(
        limit_seconds=600,
        api_keys_file=tmp_path / "keys.yaml",
        public_tls_cert=files.certificate,
        public_tls_key=files.key,
    ) as r:
        url = f"https://localhost:{r.gateway.http_port}"
        await peers.run("-W", "ignore", CHECKS / "check_elevenlabs.py", "realtime", folder=tmp_path, http=url)


async def test_the_page_in_a_browser(stack: Stack, tmp_path: Path) -> None:
    peers.need("chromium", "chromedriver")
    picture = tmp_path / "page.png"
    await peers.run(CHECKS / "check_page.py", stack.http_url, PROMPT, picture, folder=tmp_path)
    assert picture.stat().st_size > 10_000


async def test_the_page_asks_for_a_key_and_browsers_can_send_one(tmp_path: Path) -> None:
    peers.need("chromium", "chromedriver")
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash('ltts_a-key')}}}]")
    async with rig(limit_seconds=600, api_keys_file=tmp_path / "keys.yaml") as r:
        url = f"http://127.0.0.1:{r.gateway.http_port}"
        await peers.run(CHECKS / "check_page_key.py", url, "ltts_a-key", folder=tmp_path)


@pytest.mark.parametrize("example", ["openai_speech.py", "riva_speech.py", "websocket_bistream.py"])
async def test_examples_send_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str) -> None:
    peers.need()
    (tmp_path / "models").symlink_to(peers.ROOT / "models")
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash('ltts_a-key')}}}]")
    monkeypatch.setenv("LIGHTTTS_API_KEY", "ltts_a-key")
    async with rig(limit_seconds=600, api_keys_file=tmp_path / "keys.yaml") as r:
        url = f"http://127.0.0.1:{r.gateway.http_port}"
        await peers.run(EXAMPLES / example, folder=tmp_path, http=url, grpc=r.server.address)


@pytest.mark.parametrize(
    ("example", "made"),
    [
        ("openai_speech.py", ("openai.mp3", "openai.wav")),
        ("riva_speech.py", ("riva.wav",)),
        ("websocket_bistream.py", ("websocket.wav",)),
    ],
)
async def test_examples_run_as_the_guide_shows_them(
    stack: Stack, tmp_path: Path, example: str, made: tuple[str, ...]
) -> None:
    peers.need()
    (tmp_path / "models").symlink_to(peers.ROOT / "models")
    await peers.run(EXAMPLES / example, folder=tmp_path, http=stack.http_url, grpc=stack.gateway.address)
    for name in made:
        assert (tmp_path / name).stat().st_size > 5_000
