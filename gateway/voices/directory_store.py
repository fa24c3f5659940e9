"""Registered voices in a directory: `owner/id/`, which is added and removed atomically.

Several gateways may share it over a network file system: a voice is written in a staging folder and renamed into place,
and renamed back before it is removed. Leftovers of a crash are removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import structlog
from cachetools import LRUCache

from gateway.voices.record import VoiceRecord, is_id
from services.common.errors import Unavailable

log = structlog.get_logger(__name__)

STAGING = ".aside"
"""Folder, in the same file system, for voices that are being written or removed."""
LEFT_OVER_SECONDS = 3600.0
MOST_KEPT_RECORDS = 20_000
"""Records in memory, of all owners."""
METADATA, AUDIO = "voice.json", "audio"
LOCK = ".lock"
"""File in an owner's folder."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

T = TypeVar("T")
_Version = tuple[int, int, int]


class DirectoryStore:
    """Satisfies gateway.voices.store.VoiceStore. The directory is created with the first voice."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known: LRUCache[str, dict[str, tuple[_Version, VoiceRecord]]] = LRUCache(MOST_KEPT_RECORDS, getsizeof=len)
        """Records by owner and id, with the versions of their files: a request that names a voice looks at all of the
        owner's, and to parse a thousand takes 60 ms."""

    async def add(
        self,
        record: VoiceRecord,
        audio: bytes,
        contents: Mapping[str, bytes] | None = None,
        *,
        unique_name: bool = False,
    ) -> bool:
        return await self._do(lambda: self._add(record, audio, contents or {}, unique_name))

    async def get(self, owner: str, id_: str) -> VoiceRecord | None:
        return await self._do(lambda: _read_record(self._folder(owner, id_)))

    async def owned(self, owner: str) -> list[VoiceRecord]:
        return await self._do(lambda: self._owned(owner))

    async def audio(self, owner: str, id_: str) -> bytes | None:
        return await self._do(lambda: _read(self._folder(owner, id_) / AUDIO))

    async def content(self, owner: str, id_: str, model: str) -> bytes | None:
        return await self._do(lambda: _read(self._folder(owner, id_) / _content_name(model)))

    async def keep_content(self, owner: str, id_: str, model: str, content: bytes) -> None:
        await self._do(lambda: self._keep(self._folder(owner, id_), _content_name(model), content))

    async def replace(self, record: VoiceRecord) -> bool:
        metadata = record.to_json().encode()
        return await self._do(lambda: self._keep(self._folder(record.owner, record.id), METADATA, metadata))

    async def delete(self, owner: str, id_: str) -> bool:
        return await self._do(lambda: self._delete(self._folder(owner, id_)))

    async def close(self) -> None:
        """Does nothing: no file stays open."""

    async def sweep(self) -> None:
        """Remove leftovers of crashed writers; call it at start."""
        await self._do(self._sweep)

    def _folder(self, owner: str, id_: str) -> Path:
        if not _OWNER.fullmatch(owner) or not is_id(id_):
            raise ValueError(f"no voice can be stored under {owner!r}, {id_!r}")
        return self._root / owner / id_

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            log.error("the voice directory cannot be used", path=str(self._root), reason=str(error))
            raise Unavailable(
                "voices cannot be stored or read now; the operator has to check the voice directory"
            ) from error

    def _add(self, record: VoiceRecord, audio: bytes, contents: Mapping[str, bytes], unique_name: bool) -> bool:
        folder = self._folder(record.owner, record.id)
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._staged() as staged:
            staged.mkdir(mode=0o700)
            _write(staged / AUDIO, audio)
            _write(staged / METADATA, record.to_json().encode())
            for model, content in contents.items():
                _write(staged / _content_name(model), content)
            with _locked(folder.parent) if unique_name else contextlib.nullcontext():
                if unique_name and any(other.name == record.name for other in self._owned(record.owner)):
                    return False
                try:
                    staged.rename(folder)
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another gateway added it, or it existed
                        return False
                    raise
            _sync(folder.parent)
        return True

    def _owned(self, owner: str) -> list[VoiceRecord]:
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"no voice can be stored under {owner!r}")
        folder = self._root / owner
        try:
            names = sorted(filter(is_id, os.listdir(folder)))
        except FileNotFoundError:
            return []
        with self._lock:
            before = self._known.get(owner, {})
        found: dict[str, tuple[_Version, VoiceRecord]] = {}
        for name in names:
            version = _version(f"{folder}/{name}/{METADATA}")
            known = before.get(name)
            record = known[1] if known is not None and known[0] == version else _read_record(folder / name)
            if record is not None and version is not None:
                found[name] = version, record
        with self._lock, contextlib.suppress(ValueError):  # more than the cache takes
            self._known[owner] = found
        return sorted((record for _, record in found.values()), key=lambda record: record.created)

    def _keep(self, folder: Path, name: str, content: bytes) -> bool:
        """Write or replace one file of a voice. Return False, without a change, if the voice is not stored."""
        with self._staged() as staged:
            _write(staged, content)
            try:
                staged.rename(folder / name)
            except FileNotFoundError:
                return False
        return True

    def _delete(self, folder: Path) -> bool:
        with self._staged() as staged:
            try:
                folder.rename(staged)
            except FileNotFoundError:
                return False
            _sync(folder.parent)
        with self._lock:
            self._known.get(folder.parent.name, {}).pop(folder.name, None)
        return True

    @contextlib.contextmanager
    def _staged(self) -> Iterator[Path]:
        """Yield a path for unfinished data; remove what is left there afterwards."""
        (self._root / STAGING).mkdir(parents=True, exist_ok=True, mode=0o700)
        staged = self._root / STAGING / secrets.token_hex(16)
        try:
            yield staged
        finally:
            _remove(staged)

    def _sweep(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for path in (self._root / STAGING).iterdir():
                if path.stat().st_mtime < time.time() - LEFT_OVER_SECONDS:
                    _remove(path)


def _content_name(model: str) -> str:
    # Hashed: a model's name comes from another process and must not become part of a path.
    return f"content-{hashlib.sha256(model.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold back other gateways that enter a block for this folder; a gateway that crashes in it holds none back."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("the file system of the voice directory has no locks", path=str(folder), reason=str(error))
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _version(path: str) -> _Version | None:
    """Return what changes when a file is replaced; None if there is none."""
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _read_record(folder: Path) -> VoiceRecord | None:
    metadata = _read(folder / METADATA)
    if metadata is None:
        return None
    try:
        return VoiceRecord.from_json(metadata)
    except (ValueError, KeyError, TypeError) as error:
        log.error("a registered voice is damaged; delete its folder", path=str(folder), reason=str(error))
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a new file and flush it to the disk."""
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
