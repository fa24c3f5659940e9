"""Certificates for tests, made by openssl: an authority and the identities it signs."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from services.common.tls import TlsFiles

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Signs certificates for `light-tts.internal`, in a folder laid out like a mounted Kubernetes Secret."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._key = folder / "ca.key"
        self.certificate = folder / "ca.crt"
        _openssl("-subj", "/CN=authority", "-days", "90", "-keyout", str(self._key), "-out", str(self.certificate))

    def issue(self, folder: Path, name: str = "light-tts.internal", days: int = 2) -> TlsFiles:
        """Write ca.crt, tls.key and tls.crt into `folder`, or renew them."""
        folder.mkdir(parents=True, exist_ok=True)
        files = TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        (folder / "ca.crt").write_bytes(self.certificate.read_bytes())
        signed = ("-CA", str(self.certificate), "-CAkey", str(self._key), "-addext", "basicConstraints=CA:FALSE")
        names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
        _openssl(*signed, *names, "-days", str(days), "-keyout", str(files.key), "-out", str(files.certificate))
        return files


def not_after(certificate: Path) -> int:
    """The end of a certificate's validity as a Unix time, as openssl reads it."""
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(certificate)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return ssl.cert_time_to_seconds(output.strip().removeprefix("notAfter="))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", "req", "-x509", *_KEY, *arguments], check=True, capture_output=True)
