"""When a certificate ends: as openssl makes them, and as nobody should."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.common.certificate import not_after


def certificate(end: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "light-tts.internal")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=90))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("year", [2027, 2049, 2050, 2120])
def test_the_end_is_read_in_both_forms_of_time(year: int) -> None:
    end = datetime(year, 2, 28, 12, 30, 1, tzinfo=UTC)
    assert not_after(certificate(end)) == end.timestamp()


def test_of_a_chain_the_first_counts() -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    chain = b"a comment\n" + certificate(end) + certificate(end + timedelta(days=365))
    assert not_after(chain) == end.timestamp()


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
        b"\xff\xfe",
    ],
    ids=["nothing", "no end", "cut off", "empty", "no text"],
)
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        not_after(pem)
