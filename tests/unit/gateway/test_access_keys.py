"""The key file and the authenticator: accepted keys, and the errors for others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from gateway.auth.authentication import Authenticator
from gateway.auth.caller import ANONYMOUS
from gateway.auth.keys import RECHECK_SECONDS, KeyFileError, KeyRing, key_hash, new_key
from lighttts.v1 import audio_pb2
from services.common.errors import Unauthenticated
from tests.support.logs import capture_logs

KEY, OTHER = new_key(), new_key()
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key_file(folder: Path, *entries: dict[str, object]) -> Path:
    path = folder / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": list(entries)}))
    return path


def entry(key: str = KEY, **fields: object) -> dict[str, object]:
    return {"name": "app", "sha256": key_hash(key)} | fields


def ring(path: Path, clock: Clock | None = None) -> KeyRing:
    return KeyRing(path, clock=clock or Clock(), now=lambda: NOW)


def test_the_file_holds_only_the_hash_of_a_key(tmp_path: Path) -> None:
    path = key_file(tmp_path, entry(owner="team-a", max_streams=2), entry(OTHER, name="batch", priority="offline"))
    assert KEY not in path.read_text()
    keys = ring(path)
    app, batch = keys.caller(KEY), keys.caller(OTHER)
    assert (app.name, app.owner, app.max_streams, app.offline) == ("app", "team-a", 2, False)
    assert (batch.owner, batch.offline) == ("batch", True)
    assert batch.priority(audio_pb2.Urgency.PRIORITY_INTERACTIVE) == audio_pb2.Urgency.PRIORITY_OFFLINE


@pytest.mark.parametrize("wrong", ["", "x", KEY[:-1], KEY.upper(), key_hash(KEY), "ü\udcff"], ids=range(6))
def test_a_wrong_key_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(Unauthenticated, match="unknown API key"):
        ring(key_file(tmp_path, entry())).caller(wrong)


def test_a_key_is_compared_with_every_entry_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(known: str, given: str) -> bool:
        compared.append(known)
        return known == given

    monkeypatch.setattr("gateway.auth.keys.hmac.compare_digest", compare)
    hashes = [key_hash(name) for name in ("first", "second", "third")]
    path = tmp_path / "keys.yaml"
    path.write_text("keys: [" + ", ".join(f"{{name: k{n}, sha256: {value}}}" for n, value in enumerate(hashes)) + "]")
    assert KeyRing(path).caller("first").name == "k0"
    assert compared == hashes, "the time does not depend on the position of the key"


def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    keys = ring(
        key_file(
            tmp_path, entry(expires="2026-05-31T23:59:59Z"), entry(OTHER, name="b", expires="2026-06-02T00:00:00+00:00")
        )
    )
    with pytest.raises(Unauthenticated, match="expired on 2026-05-31"):
        keys.caller(KEY)
    assert keys.caller(OTHER).name == "b"


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path) -> None:
    clock = Clock()
    path = key_file(tmp_path, entry())
    keys = ring(path, clock)
    key_file(tmp_path, entry(OTHER, name="new-one"))
    assert keys.caller(KEY).name == "app", "not read again yet"
    clock.now += RECHECK_SECONDS
    assert keys.caller(OTHER).name == "new-one"
    with pytest.raises(Unauthenticated):
        keys.caller(KEY)
    path.write_text("keys: [")
    clock.now += RECHECK_SECONDS
    assert keys.caller(OTHER).name == "new-one"


def test_a_file_is_read_again_when_it_becomes_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    path = key_file(tmp_path, entry())
    keys = ring(path, clock)
    key_file(tmp_path, entry(OTHER, name="new-one"))

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as unreadable:
        unreadable.setattr(Path, "read_text", refuse)
        clock.now += RECHECK_SECONDS
        assert keys.caller(KEY).name == "app"
    written = path.stat()
    while path.stat().st_ctime_ns == written.st_ctime_ns:  # the clock of file systems has steps of milliseconds
        path.chmod(0o640)
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    clock.now += RECHECK_SECONDS
    assert keys.caller(OTHER).name == "new-one"


@pytest.mark.parametrize("content", [None, "", " \n# nothing", "keys: []", "keys:"])
def test_a_deleted_or_emptied_file_revokes_all_keys_until_it_has_some(tmp_path: Path, content: str | None) -> None:
    clock = Clock()
    path = key_file(tmp_path, entry())
    keys = ring(path, clock)
    with capture_logs() as lines:
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        clock.now += RECHECK_SECONDS
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                keys.caller(KEY)
    (line,) = lines
    assert line["log_level"] == "error"
    assert "all API keys are revoked" in line["event"]
    key_file(tmp_path, entry())
    assert keys.caller(KEY).name == "app", "at once: there is no key to protect from many reads"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("keys: []", "holds no keys"),
        ("[]", "file: "),
        ("keys: [{name: a}]", "keys.0.sha256"),
        ("keys: [{name: ../a, sha256: %s}]", "keys.0.name"),
        ("keys: [{name: a, sha256: %s, max_streams: 0}]", "max_streams"),
        ("keys: [{name: a, sha256: %s, requests_per_minute: .nan}]", "requests_per_minute"),
        ("keys: [{name: a, sha256: %s, expires: 2026-01-01T00:00:00}]", "expires"),
        ("keys: [{name: a, sha256: %s, colour: red}]", "colour"),
        ("keys: [{name: a, sha256: %s}, {name: b, sha256: %s}]", "two keys"),
        ("keys: [{name: a, sha256: %s, expires: 2027-02-30T00:00:00Z}]", "day is out of range"),
        ("keys: {", "not YAML"),
    ],
)
def test_an_error_in_the_key_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text.replace("%s", key_hash(KEY)))
    with pytest.raises(KeyFileError, match=words):
        ring(path)


def test_a_key_in_place_of_its_hash_does_not_reach_the_log(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError) as refusal:
        ring(key_file(tmp_path, {"name": "app", "sha256": KEY}))
    assert KEY not in str(refusal.value)


@pytest.fixture
def authenticator(tmp_path: Path) -> Authenticator:
    return Authenticator(ring(key_file(tmp_path, entry(), entry(OTHER, name="other"))))


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer  {KEY} ")],
        [("x-api-key", KEY)],
        [("x-api-key", KEY), ("authorization", f"Bearer {KEY}")],
    ],
)
def test_accepted_places_of_a_key(authenticator: Authenticator, headers: list[tuple[str, str]]) -> None:
    assert authenticator.caller(headers, "voice=a").name == "app"


@pytest.mark.parametrize(
    ("headers", "query", "words"),
    [
        ([], "", "an API key is needed"),
        ([("x-api-key", " ")], "", "an API key is needed"),
        ([("authorization", f"Basic {KEY}")], "", "no 'Bearer' key"),
        ([("authorization", KEY)], "", "no 'Bearer' key"),
        ([("authorization", "Bearer ")], "", "no 'Bearer' key"),
        ([("x-api-key", KEY), ("authorization", f"Bearer {OTHER}")], "", "two different"),
        ([("x-api-key", KEY)], f"api_key={KEY}", "ends up in logs"),
        ([], f"token={KEY}", "ends up in logs"),
    ],
    ids=range(8),
)
def test_an_error_names_the_right_place_of_a_key(
    authenticator: Authenticator, headers: list[tuple[str, str]], query: str, words: str
) -> None:
    with pytest.raises(Unauthenticated, match=words) as refusal:
        authenticator.caller(headers, query)
    assert "x-api-key" in refusal.value.message
    assert KEY not in refusal.value.message


def test_without_keys_every_caller_is_anonymous() -> None:
    assert Authenticator(None).caller([("x-api-key", "anything")]) is ANONYMOUS
