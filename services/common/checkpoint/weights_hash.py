"""A hash of checkpoint files, by which two workers recognise that they run the same weights."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile, ZipFile

HASH_BYTES = 16
_PIECE_BYTES = 16 * 2**20


def weights_hash(*files: Path) -> bytes:
    """Return `HASH_BYTES` bytes that differ if any number, name or shape in one of the files differs.

    PyTorch's files are ZIP archives, whose directory holds a CRC-32 of every tensor. Hashing the directory covers the
    whole content and takes milliseconds: workers must not start seconds later for a check that only matters when a
    stream moves. A file that is not such an archive, or whose checksums are not valid, is hashed as a whole.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(_directory_hash(file) or _content_hash(file))
    return digest.digest()[:HASH_BYTES]


def _directory_hash(file: Path) -> bytes | None:
    """Return a hash of the archive's directory, or None if `file` is no archive with valid checksums."""
    digest = hashlib.sha256(b"directory")
    try:
        with ZipFile(file) as archive:
            entries = archive.infolist()
            for entry in entries:
                # The first folder is the name under which the file was saved, and the id is derived from all names.
                name = entry.filename.partition("/")[2]
                if name.endswith("data.pkl"):
                    archive.read(entry)  # raises BadZipFile if the file was saved without checksums
                if not name.endswith("serialization_id"):
                    digest.update(f"{name}\0{entry.file_size}\0{entry.CRC}\0".encode())
    except BadZipFile:
        return None
    return digest.digest() if entries else None


def _content_hash(file: Path) -> bytes:
    """Return a SHA-256 over the SHA-256s of the file's pieces, which several threads compute."""

    def piece(offset: int) -> bytes:
        with file.open("rb") as stream:
            stream.seek(offset)
            return hashlib.sha256(stream.read(_PIECE_BYTES)).digest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return hashlib.sha256(b"".join(threads.map(piece, range(0, file.stat().st_size, _PIECE_BYTES)))).digest()
