"""When an X.509 certificate ends, read from its DER form (RFC 5280, section 4.1): all that is wanted of it here."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_CONTEXT_0 = 0xA0
"""Tag of the version, the one optional field before the validity."""
_UTC_TIME = 0x17
_END = "-----END CERTIFICATE-----"


def not_after(pem: bytes) -> float:
    """The end of the first certificate of a chain, as a Unix time in seconds. Raises ValueError when it is none."""
    first, end, _ = pem.decode("ascii", errors="replace").partition(_END)
    der = ssl.PEM_cert_to_DER_cert(first[first.find("-----BEGIN CERTIFICATE-----") :] + end)
    try:
        _, certificate, _ = _element(der)
        _, fields, _ = _element(certificate)
        if fields[0] == _CONTEXT_0:
            _, _, fields = _element(fields)
        for _ in ("serial number", "signature algorithm", "issuer"):
            _, _, fields = _element(fields)
        _, validity, _ = _element(fields)
        _, _, rest = _element(validity)  # not before
        tag, text, _ = _element(rest)
        return _time(tag, text.decode("ascii"))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the certificate's DER form is cut off or damaged") from error


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element, and what follows it."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:  # the length itself follows, in so many bytes
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if len(der) < start + length:
        raise IndexError("an element ends behind its certificate")
    return tag, der[start : start + length], der[start + length :]


def _time(tag: int, text: str) -> float:
    """UTCTime has years of two digits, from 1950 to 2049; GeneralizedTime has all four."""
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
