"""TLS from PEM files that may be replaced while they are in use: mutual between services; for clients with or without
client certificates.

A server reads the files again at every handshake, so a renewed certificate and a renewed authority apply to the next
connection. Client processes dial their workers again (services.common.pool).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography import x509
from prometheus_client import Gauge

log = structlog.get_logger(__name__)

EXPIRY = Gauge(
    "lighttts_tls_certificate_expiry_timestamp_seconds",
    "End of validity of the certificate in use, as a Unix time.",
    ["file"],
)


class TlsError(Exception):
    """The files cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class TlsFiles:
    """One identity, and the authority whose certificates are trusted; a server without authority requests none."""

    certificate: Path
    """The chain, its own certificate first."""
    key: Path
    authority: Path | None = None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return certificate, key and authority (PEM). Raises TlsError."""
        certificate, key = _read(self.certificate), _read(self.key)
        return certificate, key, None if self.authority is None else _read(self.authority)

    def check(self) -> None:
        """Raises TlsError if the key does not belong to the certificate, as happens while both are being replaced."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{self.certificate} and {self.key} are not a certificate and its key ({error})") from error


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {path} ({error.strerror or error})") from error
    if b"-----BEGIN" not in content:
        raise TlsError(f"{path} is not a PEM file")
    return content


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Make the credentials of a gRPC server; with an authority it requires client certificates. Raises TlsError."""
    renewal = _Renewal(files)
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], renewal)  # gRPC allows None: nothing has changed
    return grpc.dynamic_ssl_server_credentials(
        renewal.first, fetch, require_client_authentication=files.authority is not None
    )


def server_context(files: TlsFiles, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Make the TLS context of a server that is not gRPC's own; a renewed certificate serves the next handshake.

    Clients are checked against the current authority; whether they need a certificate is fixed at the start.
    `protocols`: what the server speaks, in ALPN's names; gRPC clients need h2. Raises TlsError.
    """
    used = files.read()
    newest = context = _context(files, protocols)
    _report_expiry(files, used)

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, initial: ssl.SSLContext) -> None:
        nonlocal used, newest
        try:
            found = files.read()
            if found != used:
                newest, used = _context(files, protocols), found
                log.info("certificate renewed", file=str(files.certificate))
                _report_expiry(files, used)
        except TlsError as error:
            log.warning("keeping the certificate in use", reason=str(error))
        connection.context = newest

    context.sni_callback = renew
    return context


def _context(files: TlsFiles, protocols: Sequence[str]) -> ssl.SSLContext:
    files.check()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    context.load_cert_chain(files.certificate, files.key)
    if files.authority is not None:
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _report_expiry(files: TlsFiles, content: tuple[bytes, bytes, bytes | None]) -> None:
    try:
        end = x509.load_pem_x509_certificate(content[0]).not_valid_after_utc
    except (ValueError, x509.InvalidVersion) as error:  # stricter than OpenSSL, which accepted the file
        log.warning("cannot read when the certificate ends", file=str(files.certificate), reason=str(error))
    else:
        EXPIRY.labels(str(files.certificate)).set(end.timestamp())


class _Renewal:
    """Return a new configuration when the files have changed. gRPC calls it at every handshake, in its own thread."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._used = files.read()
        files.check()
        _report_expiry(files, self._used)
        self.first = _configuration(self._used)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            found = self._files.read()
            if found == self._used:
                return None
            self._files.check()
        except TlsError as error:
            log.warning("keeping the certificate in use", reason=str(error))
            return None
        self._used = found
        log.info("certificate renewed", file=str(self._files.certificate))
        _report_expiry(self._files, found)
        return _configuration(found)


def _configuration(content: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    certificate, key, authority = content
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)
