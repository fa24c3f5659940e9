"""Answers that are signed with a certificate: the C2PA project's library reads and validates them."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.audio.credentials import Credentials
from gateway.audio.notice import SOURCE_TYPE
from gateway.settings import GatewaySettings
from services.common.start_error import StartError
from tests.support.fake_stages import rig

c2pa: Any = pytest.importorskip("c2pa")

MIME = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac"}
USAGES = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> bytes:
    """Return a certificate (PEM) that is valid for a week."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    usage = x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **dict.fromkeys(USAGES, False)
    )
    built = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 7 * day)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return built.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
    )


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A certificate of an authority made for the tests, and its key, as settings."""
    folder = tmp_path_factory.mktemp("c2pa")
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = certificate("speech", own, "authority", root, authority=False)
    chain += certificate("authority", root, "authority", root, authority=True)
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"c2pa_cert": folder / "chain.pem", "c2pa_key": folder / "key.pem"}


def report(audio: bytes, format_: str) -> tuple[dict[str, Any], set[str]]:
    """Return the report of C2PA's reader, and the codes of what it found wrong."""
    found = json.loads(c2pa.Reader(MIME[format_], io.BytesIO(audio)).json())
    return found, {problem["code"] for problem in found.get("validation_status", [])}


async def test_answers_that_are_not_streamed_are_signed(identity: dict[str, Any]) -> None:
    bodies = {
        format_: {"input": "One. Two.", "response_format": format_, "stream": False, "seed": 1} for format_ in MIME
    }
    async with rig() as plain:
        without = {
            format_: (await plain.http.post("/v1/audio/speech", json=body)).content for format_, body in bodies.items()
        }
    async with rig(**identity, result_cache="memory") as r:
        for format_, body in bodies.items():
            answer = await r.http.post("/v1/audio/speech", json=body)
            assert int(answer.headers["content-length"]) == len(answer.content)
            found, problems = report(answer.content, format_)
            # The test's authority is not in the list of trusted ones; no other fault may be reported.
            assert (found["validation_state"], problems) == ("Valid", {"signingCredential.untrusted"})
            manifest = found["manifests"][found["active_manifest"]]
            (actions,) = manifest["assertions"]
            assert actions["data"]["actions"][0]["digitalSourceType"] == SOURCE_TYPE
            assert manifest["claim_generator_info"][0]["name"] == "light-tts"
            unsigned = without[format_]
            samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="int16")
            expected, expected_rate = soundfile.read(io.BytesIO(unsigned), dtype="int16")
            assert rate == expected_rate
            assert np.array_equal(samples, expected), "the same samples"
            middle = answer.content.find(unsigned[-200:-100])
            changed = bytearray(answer.content)
            changed[middle] ^= 1
            assert "assertion.dataHash.mismatch" in report(bytes(changed), format_)[1]
            again = (await r.http.post("/v1/audio/speech", json=body)).content
            assert report(again, format_)[0]["validation_state"] == "Valid", "from the result cache too"
        streamed = await r.http.post("/v1/audio/speech", json={"input": "One.", "response_format": "mp3"})
        assert b"c2pa" not in streamed.content
        opus = {"input": "One.", "response_format": "opus", "stream": False}
        assert b"c2pa" not in (await r.http.post("/v1/audio/speech", json=opus)).content


def test_a_certificate_that_cannot_sign_ends_the_start(identity: dict[str, Any], tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    wrong, none = tmp_path / "wrong.pem", tmp_path / "none.pem"
    wrong.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    unusable = tmp_path / "usage.pem"
    unusable.write_bytes(certificate("speech", other, "speech", other, authority=True))
    for chain, key in (
        (identity["c2pa_cert"], none),
        (identity["c2pa_cert"], identity["c2pa_cert"]),
        (none, wrong),
        (unusable, wrong),
        (identity["c2pa_cert"], wrong),
    ):
        with pytest.raises(StartError, match="LIGHTTTS_C2PA"):
            Credentials(chain, key)
    with pytest.raises(ValueError, match="belong together"):
        GatewaySettings(c2pa_cert=identity["c2pa_cert"])
