"""Registered voices in a directory: `owner/id/`, which appears and disappears whole.

Several gateways may share it over a network file system: a voice is written aside and renamed into place, and renamed
away before it is removed. What a crash leaves aside is swept up at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from gateway.voices.record import VoiceRecord, is_id
from services.common.errors import Unavailable

log = structlog.get_logger(__name__)

ASIDE = ".aside"
"""Folder, in the same file system, of what is being written or removed."""
LEFT_OVER_SECONDS = 3600.0
FACTS, AUDIO = "voice.json", "audio"

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

T = TypeVar("T")


class DirectoryStore:
    """Satisfies gateway.voices.store.VoiceStore. The directory is made when the first voice comes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def add(self, record: VoiceRecord, audio: bytes) -> bool:
        return await self._do(lambda: self._add(record, audio))

    async def get(self, owner: str, id_: str) -> VoiceRecord | None:
        return await self._do(lambda: _read_record(self._folder(owner, id_)))

    async def owned(self, owner: str) -> list[VoiceRecord]:
        return await self._do(lambda: self._owned(owner))

    async def audio(self, owner: str, id_: str) -> bytes | None:
        return await self._do(lambda: _read(self._folder(owner, id_) / AUDIO))

    async def content(self, owner: str, id_: str, model: str) -> bytes | None:
        return await self._do(lambda: _read(self._folder(owner, id_) / _content_name(model)))

    async def keep_content(self, owner: str, id_: str, model: str, content: bytes) -> None:
        await self._do(lambda: self._keep_content(self._folder(owner, id_), _content_name(model), content))

    async def delete(self, owner: str, id_: str) -> bool:
        return await self._do(lambda: self._delete(self._folder(owner, id_)))

    async def close(self) -> None:
        """Nothing is held open."""

    async def sweep(self) -> None:
        """Removes what crashed writers have left; to be called at start."""
        await self._do(self._sweep)

    def _folder(self, owner: str, id_: str) -> Path:
        if not _OWNER.fullmatch(owner) or not is_id(id_):
            raise ValueError(f"no voice can be kept under {owner!r}, {id_!r}")
        return self._root / owner / id_

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            log.error("the voice directory cannot be used", path=str(self._root), reason=str(error))
            raise Unavailable(
                "voices cannot be kept or read now; the operator has to look at the voice directory"
            ) from error

    def _add(self, record: VoiceRecord, audio: bytes) -> bool:
        folder = self._folder(record.owner, record.id)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._aside() as aside:
            aside.mkdir(mode=0o700)
            _write(aside / AUDIO, audio)
            _write(aside / FACTS, record.to_json().encode())
            try:
                aside.rename(folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # somebody was faster, or it was there all along
                    return False
                raise
            _sync(folder.parent)
        return True

    def _owned(self, owner: str) -> list[VoiceRecord]:
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"no voice can be kept under {owner!r}")
        try:
            names = sorted(entry.name for entry in (self._root / owner).iterdir() if is_id(entry.name))
        except FileNotFoundError:
            return []
        records = [_read_record(self._root / owner / name) for name in names]
        return sorted((record for record in records if record is not None), key=lambda record: record.created)

    def _keep_content(self, folder: Path, name: str, content: bytes) -> None:
        with self._aside() as aside:
            _write(aside, content)
            with contextlib.suppress(FileNotFoundError):  # the voice was deleted meanwhile
                aside.rename(folder / name)

    def _delete(self, folder: Path) -> bool:
        with self._aside() as aside:
            try:
                folder.rename(aside)
            except FileNotFoundError:
                return False
            _sync(folder.parent)
        return True

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A path for something unfinished; nothing is left there afterwards."""
        (self._root / ASIDE).mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = self._root / ASIDE / secrets.token_hex(16)
        try:
            yield aside
        finally:
            _remove(aside)

    def _sweep(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for path in (self._root / ASIDE).iterdir():
                if path.stat().st_mtime < time.time() - LEFT_OVER_SECONDS:
                    _remove(path)


def _content_name(model: str) -> str:
    # Hashed: a model's name comes from another process and must not become part of a path.
    return f"content-{hashlib.sha256(model.encode()).hexdigest()[:16]}"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_record(folder: Path) -> VoiceRecord | None:
    facts = _read(folder / FACTS)
    if facts is None:
        return None
    try:
        return VoiceRecord.from_json(facts)
    except (ValueError, KeyError, TypeError) as error:
        log.error("a registered voice is damaged; delete its folder", path=str(folder), reason=str(error))
        return None


def _write(path: Path, content: bytes) -> None:
    """Writes through to the disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
