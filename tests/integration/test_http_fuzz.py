"""schemathesis against every HTTP operation of a gateway over fake stages: no input causes a server error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import peers
from tests.support.fake_stages import rig

pytestmark = pytest.mark.system
LIMIT_SECONDS = 900


@pytest.mark.parametrize(("listener", "watermarked"), [("http", False), ("http", True), ("cosyvoice", False)])
async def test_no_input_causes_a_server_error(listener: str, watermarked: bool, tmp_path: Path) -> None:
    peers.need()
    keys = tmp_path / "marks.keys"
    keys.write_text(f"1 {bytes(16).hex()}\n", encoding="utf-8")
    key_file = keys if watermarked else None
    async with rig(cosyvoice_port=0, limit_seconds=LIMIT_SECONDS, watermark_key_file=key_file) as r:
        port = r.gateway.http_port if listener == "http" else r.gateway.cosyvoice_port
        check = ("-m", "pytest", "--noconftest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null")
        script = peers.CHECKS / "check_schema.py"
        await peers.run(*check, "--rootdir", tmp_path, script, folder=tmp_path, http=f"http://127.0.0.1:{port}")
