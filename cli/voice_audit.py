"""`light-tts voices audit`: who registered and deleted voices, when, from where and with which consent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.console import examples, fail, out
from gateway.redis_client import connect
from gateway.voices.audit import AUDIT_FOLDER, DirectoryTrail, Entry, RedisTrail
from services.common.errors import Unavailable
from services.common.start_error import StartError

WIDE = 1000
"""Columns of a table that goes to a file or another program."""


def add_to(voices: typer.Typer) -> None:
    """Add the command."""
    voices.command(
        "audit",
        epilog=examples("voices audit", "voices audit --voices-dir /data/voices --json", "voices audit --voice Ada"),
    )(audit)


def audit(
    voices_dir: Annotated[
        Path, typer.Option(envvar="LIGHTTTS_VOICES_DIR", help="The gateway's directory of voices.")
    ] = Path(".voices"),
    store: Annotated[
        str,
        typer.Option(envvar="LIGHTTTS_VOICE_STORE", help="The gateway's voice_store: directory or redis."),
    ] = "directory",
    redis_url: Annotated[
        str,
        typer.Option(envvar="LIGHTTTS_REDIS_URL", show_default=False, help="The gateway's redis_url, for redis."),
    ] = "",
    redis_prefix: Annotated[
        str, typer.Option(envvar="LIGHTTTS_REDIS_PREFIX", help="The gateway's redis_prefix.")
    ] = "lighttts:",
    voice: Annotated[
        str, typer.Option(help="Only entries of this voice or consent: an id or a name. Default: all.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Show who registered and deleted voices and consents, when, from where and with which consent.

    It reads the voice store, not a gateway: run it where the gateway's settings are. Oldest entries come first.
    """
    if store not in ("directory", "redis"):
        fail(f"--store is {store!r}; it must be directory or redis")
    try:
        found = asyncio.run(_stored(redis_url, redis_prefix)) if store == "redis" else _kept(voices_dir)
    except (StartError, Unavailable) as error:
        fail(str(error))
    found = [entry for entry in found if not voice or voice in (entry.get("voice"), entry.get("name"), _id(entry))]
    if as_json:
        for entry in found:
            typer.echo(json.dumps(entry, ensure_ascii=False))
        return
    if not found:
        out.print("no entries")
        return
    table = Table(box=None)
    for title in ("time (UTC)", "operation", "key", "owner", "from", "voice or consent", "name", "consent"):
        table.add_column(title, overflow="fold")  # an audit must not be cut
    for entry in found:
        texts = [entry.get(name, "") for name in ("operation", "key", "owner", "source")]
        row = (str(entry.get("time", ""))[:19], *texts, _id(entry), entry.get("name", ""), _consent(entry))
        table.add_row(*(str(cell).replace("[", "\\[") for cell in row))
    console = out if out.is_terminal else Console(highlight=False, width=WIDE)
    console.print(table)


def _kept(folder: Path) -> list[Entry]:
    if not folder.is_dir():
        fail(f"{folder} is no directory; give the gateway's voices_dir with --voices-dir")
    return asyncio.run(DirectoryTrail(folder / AUDIT_FOLDER).entries())


async def _stored(url: str, prefix: str) -> list[Entry]:
    if not url:
        fail("--store redis needs --redis-url")
    client = connect(url)
    try:
        return await RedisTrail(client, prefix).entries()
    finally:
        await client.aclose()


def _id(entry: Entry) -> str:
    """Return the id of what the entry is about: a voice, or a consent."""
    return str(entry.get("voice") or entry.get("consent", ""))


def _consent(entry: Entry) -> str:
    """Return the consent of a voice in words."""
    if "voice" not in entry or "consent" not in entry:
        return ""
    parts = [entry.get("consent_given_by", ""), entry.get("consent_given_on", "")]
    recording = entry["consent"]
    stated = " ".join(filter(None, parts)) or "stated"
    return stated if recording is True else f"{stated}, {recording}"
