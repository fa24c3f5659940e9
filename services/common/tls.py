"""TLS from PEM files that may be replaced while they are in use: mutual between the services, either way for clients.

A server reads them again when they change, so a renewed certificate serves the next connection, and a renewed authority
judges it. Clients dial their workers anew (services.common.pool).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import structlog
from prometheus_client import Gauge

from services.common.certificate import not_after

log = structlog.get_logger(__name__)

EXPIRY = Gauge(
    "lighttts_tls_certificate_expiry_timestamp_seconds",
    "When the certificate that is shown ends, as a Unix time.",
    ["file"],
    multiprocess_mode="livemin",
)


class TlsError(Exception):
    """The files cannot be used; the message says which and why."""


@dataclass(frozen=True)
class TlsFiles:
    """One identity, and the authority whose certificates are trusted; a server without one asks for none."""

    certificate: Path
    """The chain, own certificate first."""
    key: Path
    authority: Path | None = None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Certificate, key and authority, PEM. Raises TlsError."""
        certificate, key = _read(self.certificate), _read(self.key)
        return certificate, key, None if self.authority is None else _read(self.authority)

    def check(self) -> None:
        """Raises TlsError unless the key belongs to the certificate, which while both are replaced it may not."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{self.certificate} and {self.key} are no certificate with its key ({error})") from error


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {path} ({error.strerror or error})") from error
    if b"-----BEGIN" not in content:
        raise TlsError(f"{path} is no PEM file")
    return content


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server; with an authority it demands certificates of that one. Raises TlsError."""
    renewal = _Renewal(files)
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], renewal)  # None is allowed: nothing has changed
    return grpc.dynamic_ssl_server_credentials(
        renewal.first, fetch, require_client_authentication=files.authority is not None
    )


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The same for servers that are not gRPC: a renewed certificate serves the next handshake. Raises TlsError.

    Clients are held to the authority as it is by then; whether they need a certificate at all is settled at the start.
    """
    used = files.read()
    newest = context = _context(files)
    _tell_expiry(files, used)

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, began_with: ssl.SSLContext) -> None:
        nonlocal used, newest
        try:
            found = files.read()
            if found != used:
                newest, used = _context(files), found
                log.info("certificate renewed", file=str(files.certificate))
                _tell_expiry(files, used)
        except TlsError as error:
            log.warning("the certificate in use stays", reason=str(error))
        connection.context = newest

    context.sni_callback = renew
    return context


def _context(files: TlsFiles) -> ssl.SSLContext:
    files.check()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if files.authority is not None:
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _tell_expiry(files: TlsFiles, content: tuple[bytes, bytes, bytes | None]) -> None:
    try:
        EXPIRY.labels(str(files.certificate)).set(not_after(content[0]))
    except ValueError as error:
        log.warning("cannot tell when the certificate ends", file=str(files.certificate), reason=str(error))


class _Renewal:
    """Asked by gRPC at every handshake, in a thread of its own: a configuration when the files have changed."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._used = files.read()
        files.check()
        _tell_expiry(files, self._used)
        self.first = _configuration(self._used)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            found = self._files.read()
            if found == self._used:
                return None
            self._files.check()
        except TlsError as error:
            log.warning("the certificate in use stays", reason=str(error))
            return None
        self._used = found
        log.info("certificate renewed", file=str(self._files.certificate))
        _tell_expiry(self._files, found)
        return _configuration(found)


def _configuration(content: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    certificate, key, authority = content
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)
