"""API keys: a file of their hashes, read again when it changes.

    keys:
      - name: assistant                      # unique; in logs and metrics
        sha256: 9f86d081884c7d65...          # of the key itself, as `light-tts key` prints it
        owner: team-a                        # whose registered voices it can use; default: the name
        priority: interactive                # or offline: served last
        expires: 2027-01-01T00:00:00Z
        max_streams: 8
        requests_per_minute: 600
        burst: 20

A key has 256 random bits, so a fast hash is as safe as a slow one: the keys are too many to try.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import structlog
import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from gateway.auth.caller import Caller
from services.common.errors import Unauthenticated

log = structlog.get_logger(__name__)

PREFIX = "ltts_"
"""Lets people and secret scanners recognise a leaked key."""
RECHECK_SECONDS = 1.0

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Pattern of the names of keys and owners."""
Name = Annotated[str, StringConstraints(pattern=NAME)]


class KeyFileError(Exception):
    """The key file cannot be used; the message gives the reason."""


class NoKeys(KeyFileError):
    """The file does not exist, is empty, or has an empty list: there is no mistake in it that would explain this."""


def new_key() -> str:
    """Return a new random key. Show it once: only its hash is stored."""
    return PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Return the SHA-256 (hex) of a key, as the file holds it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    owner: Name | None = None
    priority: Literal["interactive", "offline"] = "interactive"
    expires: AwareDatetime | None = None
    max_streams: int | None = Field(default=None, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    burst: int = Field(default=10, ge=1)

    def caller(self) -> Caller:
        return Caller(
            name=self.name,
            owner=self.owner or self.name,
            offline=self.priority == "offline",
            max_streams=self.max_streams,
            requests_per_minute=self.requests_per_minute,
            burst=self.burst,
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[_Entry, ...]

    @model_validator(mode="after")
    def _unique(self) -> _File:
        for what in ("name", "sha256"):
            values = [getattr(entry, what) for entry in self.keys]
            double = sorted({value for value in values if values.count(value) > 1})
            if double:
                raise ValueError(f"two keys have the {what} {double[0]!r}")
        return self


class KeyRing:
    """The keys of a file, read again when it changes.

    A file with a mistake leaves the previous keys in force; a file that was deleted or emptied revokes all of them.
    Both log an error.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises KeyFileError."""
        self._path = path
        self._clock = clock
        self._now = now
        self._seen = self._stamp()
        self._entries = _read(path)
        self._recheck_at = clock() + RECHECK_SECONDS

    def __len__(self) -> int:
        return len(self._entries)

    def caller(self, key: str) -> Caller:
        """Return the holder of a key. Raises Unauthenticated for a key that is unknown or has expired."""
        self._reload()
        digest = key_hash(key)
        found: _Entry | None = None
        for entry in self._entries:  # compare with every entry, so that the time taken reveals nothing
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        if found is None:
            raise Unauthenticated("unknown API key; check it or request a new one")
        if found.expires is not None and found.expires <= self._now():
            raise Unauthenticated(f"this API key expired on {found.expires:%Y-%m-%d}; request a new one")
        return found.caller()

    def _reload(self) -> None:
        if self._entries and self._clock() < self._recheck_at:  # without keys, new ones apply at once
            return
        self._recheck_at = self._clock() + RECHECK_SECONDS
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._entries = _read(self._path)
        except NoKeys as error:
            self._entries = ()
            log.error(
                "all API keys are revoked, because the key file holds none: every request is refused", reason=str(error)
            )
        except KeyFileError as error:
            log.error("the key file cannot be used; the previous keys stay in force", reason=str(error))
        else:
            log.info("keys read", path=str(self._path), keys=len(self._entries))

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        # ctime: a new owner or mode may make a file readable that was not.
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[_Entry, ...]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document is None or document == {"keys": []} or document == {"keys": None}:
            raise NoKeys(f"{path} holds no keys: write at least one entry below keys")
        return _File.model_validate(document).keys
    except FileNotFoundError as error:
        raise NoKeys(f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        # Leave the input out: it may be a key, written where its hash belongs.
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise KeyFileError(f"{path}: {problems}") from error
    except ValueError as error:  # of PyYAML's own conversions, such as for 2027-02-30
        raise KeyFileError(f"{path} has a value that does not exist: {error}") from error
