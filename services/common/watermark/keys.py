"""The file of secret keys: one per line, its number and at least 16 bytes in hexadecimal."""

from __future__ import annotations

import secrets
from pathlib import Path

LEAST_BYTES = 16
NEW_BYTES = 32


class KeyFileError(ValueError):
    """The key file cannot be used; the message names the line, never the key."""


def new_line(number: int) -> str:
    """Return a line with a new key. Raises KeyFileError if `number` is not 0 to 255."""
    if not 0 <= number <= 255:
        raise KeyFileError(f"the number of a key must be 0 to 255, not {number}")
    return f"{number} {secrets.token_hex(NEW_BYTES)}"


def read_keys(path: Path) -> dict[int, bytes]:
    """Return the keys of a file by their numbers. Lines that begin with # are comments. Raises KeyFileError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KeyFileError(f"cannot read the watermark's key file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"the watermark's key file {path} is not text") from error
    keys: dict[int, bytes] = {}
    for place, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, secret = line.split()
            number, key = int(name), bytes.fromhex(secret)
        except ValueError as error:
            raise KeyFileError(f"{path}, line {place}: write the key's number and the key in hexadecimal") from error
        if not 0 <= number <= 255 or number in keys:
            raise KeyFileError(f"{path}, line {place}: the number must be 0 to 255 and differ from the other keys'")
        if len(key) < LEAST_BYTES:
            raise KeyFileError(f"{path}, line {place}: the key has {len(key)} bytes; it needs {LEAST_BYTES} or more")
        keys[number] = key
    if not keys:
        raise KeyFileError(f"the watermark's key file {path} has no key; `light-tts mark-key 1` prints a line for it")
    return keys
