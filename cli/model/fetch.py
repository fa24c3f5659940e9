"""`light-tts fetch`: downloads an official checkpoint from the Hugging Face hub and verifies it.

Fetches only the files that the services read (not the Qwen2 weights next to the tokenizer: `llm.pt` holds them).
Intact files are kept. An interrupted file resumes at its last byte, also in a later run; the hub's own library would
start it again. `HF_ENDPOINT` names another hub or a mirror, `HF_TOKEN` is sent if it is set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from services.common.checkpoint.model_dir import ModelDirError, open_model_dir
from services.common.families.family import ModelFamily

HUB = "https://huggingface.co"
_OPTIONAL = ("README.md", "spk2info.pt", "config.json")
SPARE_BYTES = 2**28
"""Disk space to keep free after the download."""
ATTEMPTS = 5
"""Give up a file after this many consecutive connections that brought no byte."""
WAIT_SECONDS = 2.0
"""Interval between checks for a checkpoint that another process fetches."""
_BLOCK = 2**20
_TIMEOUT = httpx.Timeout(30.0)


class FetchError(Exception):
    """The checkpoint could not be fetched; the message says why and what to do."""


class Progress(Protocol):
    """Receives the progress of a download."""

    def note(self, line: str) -> None:
        """A line for the user."""

    def begin(self, name: str, size: int, done: int) -> None:
        """The download of a file starts; `done` of its `size` bytes are on disk."""

    def advance(self, count: int) -> None:
        """`count` more bytes were received."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository. Large files have a SHA-256, others git's blob id (SHA-1 over a header and the file)."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None

    def matches(self, local: Path) -> bool:
        """Return whether `local` has this file's content. Raises FetchError if the hub gave no checksum."""
        if not local.is_file() or local.stat().st_size != self.size:
            return False
        if self.sha256 is None and self.blob_id is None:
            raise FetchError(f"the hub gives no checksum for {self.path}, so it cannot be verified; use another mirror")
        digest = hashlib.sha256()
        if self.sha256 is None:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with local.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.blob_id)


def fetch(
    family: ModelFamily,
    directory: Path,
    progress: Progress,
    repository: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
    *,
    variants: Sequence[str] = (),
) -> None:
    """Download the files of the checkpoint that `directory` lacks and verify all of them. Raises FetchError.

    `variants` names further weights of the llm to download (`ModelFamily.llm_variants`). Another call after a failure
    resumes the download.
    """
    name = repository or family.repository
    needed = (*_needed(family), *(family.llm_file(variant) for variant in variants))
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=hub, headers=headers, follow_redirects=True, timeout=_TIMEOUT) as client:
            commit, files = _list(client, name, family.name, needed)
            _Download(client, f"/{name}/resolve/{commit}", directory, progress, sleep).run(name, files)
    except httpx.InvalidURL as error:
        raise FetchError(f"HF_ENDPOINT is {hub}, which is not a URL ({error}); write https://HOST") from error
    except UnicodeEncodeError as error:
        raise FetchError("HF_TOKEN has characters that no token has; copy it again") from error
    except httpx.HTTPError as error:
        raise FetchError(f"cannot fetch {name} from {hub}: {_reason(error)}") from error
    except OSError as error:
        raise FetchError(f"cannot write to {directory} ({error.strerror or error})") from error
    try:
        open_model_dir(directory)
    except ModelDirError as error:
        raise FetchError(f"{name} was fetched, but is not a usable model directory: {error}") from error


def wait_for(
    directory: Path,
    seconds: float,
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
    *,
    variants: Sequence[str] = (),
) -> None:
    """Wait until another process has fetched a checkpoint into `directory`; only complete files have their final names.

    `variants` are as for `fetch`. Raises FetchError, which names the missing file, after `seconds`.
    """
    reported = ""
    waited = 0.0
    while True:
        try:
            family = open_model_dir(directory).family
            lacking = [name for name in map(family.llm_file, variants) if not (directory / name).is_file()]
            if lacking:
                raise ModelDirError(f"{directory} lacks {', '.join(lacking)}")
        except ModelDirError as error:
            if waited >= seconds:
                raise FetchError(f"there is no model after {seconds:.0f} s: {error}") from error
            if str(error) != reported:
                reported = str(error)
                progress.note(f"waiting for the model: {reported}")
        else:
            return
        sleep(WAIT_SECONDS)
        waited += WAIT_SECONDS


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in (401, 403):
            return f"status {status}; check the name, and set HF_TOKEN if the repository is not public"
        if status == 404:
            return "status 404; the repository or file does not exist, check the name and HF_ENDPOINT"
        return f"status {status}; run the same command again later to resume"
    detail = str(error) or type(error).__name__
    return f"{detail}; run the same command again to resume, or name a mirror with HF_ENDPOINT"


def _needed(family: ModelFamily) -> tuple[str, ...]:
    tokenizer = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")
    files = (family.yaml, *(f"CosyVoice-BlankEN/{name}" for name in tokenizer), *reversed(family.required))
    return tuple(dict.fromkeys(files))


def _list(client: httpx.Client, name: str, family: str, needed: Sequence[str]) -> tuple[str, list[RemoteFile]]:
    """Return the repository's commit and the files to fetch, small ones first."""
    answer = client.get(f"/api/models/{name}", params={"blobs": "true"})
    answer.raise_for_status()
    try:
        data: Mapping[str, Any] = answer.json()
        listed = {str(entry["rfilename"]): _remote_file(entry) for entry in data["siblings"]}
        commit = str(data["sha"])
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(
            f"the answer of {client.base_url} is not that of a model hub ({error!r}); check HF_ENDPOINT"
        ) from error
    missing = [path for path in needed if path not in listed]
    if missing:
        raise FetchError(f"{name} lacks {', '.join(missing)}: it is not a {family} checkpoint")
    return commit, [listed[path] for path in (*_OPTIONAL, *needed) if path in listed]


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    large = entry.get("lfs") or {}
    return RemoteFile(str(entry["rfilename"]), int(entry["size"]), large.get("sha256"), entry.get("blobId"))


@dataclass(frozen=True)
class _Download:
    client: httpx.Client
    base: str
    directory: Path
    progress: Progress
    sleep: Callable[[float], None]

    def run(self, name: str, files: list[RemoteFile]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lacking = [file for file in files if not file.matches(self.directory / file.path)]
        total = sum(file.size for file in lacking)
        self.progress.note(
            f"{name}: {len(files) - len(lacking)} of {len(files)} files are on disk, {total / 1e9:.2f} GB to download"
        )
        self._check_space(lacking)
        for file in lacking:
            self._fetch(file)
        self.progress.note(f"{self.directory}: all {len(files)} files are complete and their checksums are correct")

    def _check_space(self, files: list[RemoteFile]) -> None:
        here = sum(self._part(file).stat().st_size for file in files if self._part(file).is_file())
        wanted = sum(file.size for file in files) - here + SPARE_BYTES
        free = shutil.disk_usage(self.directory).free
        if files and free < wanted:
            raise FetchError(
                f"{self.directory} has {free / 1e9:.1f} GB of free disk space, {wanted / 1e9:.1f} GB are needed; free"
                " some or choose another directory"
            )

    def _part(self, file: RemoteFile) -> Path:
        return self.directory / f"{file.path}.part"

    def _fetch(self, file: RemoteFile) -> None:
        part = self._part(file)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        self.progress.begin(file.path, file.size, part.stat().st_size)
        failures = 0
        while (here := part.stat().st_size) < file.size:
            try:
                self._receive(file, part, here)
                if part.stat().st_size <= here:  # a mirror's empty answer; without a limit, it would repeat for ever
                    raise httpx.RemoteProtocolError(f"the answer for {file.path} has no content")
            except httpx.TransportError:
                failures = 0 if part.stat().st_size > here else failures + 1
                if failures >= ATTEMPTS:
                    raise
                self.sleep(min(2.0**failures, 30.0))
        if not file.matches(part):
            part.unlink()
            raise FetchError(f"{file.path} is damaged (wrong checksum) and was removed; run the same command again")
        part.replace(self.directory / file.path)

    def _receive(self, file: RemoteFile, part: Path, here: int) -> None:
        """Append the bytes of one connection."""
        # Only uncompressed bytes can be counted and resumed.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with self.client.stream("GET", f"{self.base}/{file.path}", headers=headers) as answer:
            answer.raise_for_status()
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            if here and not resumed:
                self.progress.begin(file.path, file.size, 0)
            with part.open("ab" if resumed else "wb") as stream:
                for block in answer.iter_raw():
                    stream.write(block)
                    self.progress.advance(len(block))
                    if stream.tell() > file.size:
                        raise FetchError(f"{file.path} is larger than the size that the hub lists; use another mirror")
