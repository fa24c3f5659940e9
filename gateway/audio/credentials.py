"""Content Credentials (C2PA): a signed statement, inside a complete file, that a model made its speech.

Needs c2pa-python (extra `c2pa`), which contains the C2PA project's own library. It cannot sign a stream: the signature
covers the whole file.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.audio.container_headers import with_length
from gateway.audio.encoders import make_encoder
from gateway.audio.formats import ENCODINGS, Encoding
from gateway.audio.notice import SOFTWARE, SOURCE_TYPE
from lighttts.v1 import audio_pb2
from services.common.start_error import StartError

log = structlog.get_logger(__name__)

FORMATS: dict[int, str] = {
    audio_pb2.AUDIO_ENCODING_WAV: "audio/wav",
    audio_pb2.AUDIO_ENCODING_MP3: "audio/mpeg",
    audio_pb2.AUDIO_ENCODING_FLAC: "audio/flac",
}
"""The formats that can be signed; the library supports no other one of ours."""
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_TRIAL_RATE, _TRIAL_SAMPLES = 24_000, 2400
"""Of the file that is signed at the start."""


class Credentials:
    """Signs files with one certificate."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """`certificate`: the chain (PEM), the signer's own first. Raises StartError if it cannot sign a file."""
        try:
            import c2pa
        except ImportError as error:
            raise StartError(
                "LIGHTTTS_C2PA_CERT is set, but c2pa-python is not installed: pip install 'light-tts[c2pa]'"
            ) from error
        self._c2pa: Any = c2pa
        try:
            self._chain, self._key = certificate.read_bytes(), key.read_bytes()
            self._algorithm = _algorithm(self._key)
            wav = ENCODINGS[audio_pb2.AUDIO_ENCODING_WAV]
            file = make_encoder(wav, _TRIAL_RATE).encode(np.zeros(_TRIAL_SAMPLES, np.float32))
            self._sign(with_length(file, wav, _TRIAL_SAMPLES), FORMATS[wav.number])
        except (OSError, ValueError, TypeError, c2pa.C2paError) as error:
            raise StartError(f"LIGHTTTS_C2PA_CERT, LIGHTTTS_C2PA_KEY: no file can be signed: {error}") from error

    async def signed(self, audio: bytes, encoding: Encoding) -> bytes:
        """Return a complete file with its credentials; unchanged in a format that has no place for them.

        A file that cannot be signed, for example after the certificate has expired, is returned as it is.
        """
        media_type = FORMATS.get(encoding.number)
        if media_type is None or not audio:
            return audio
        try:
            return await asyncio.to_thread(self._sign, audio, media_type)
        except self._c2pa.C2paError as error:
            log.error("speech is sent without content credentials: it cannot be signed", reason=str(error))
            return audio

    def _sign(self, audio: bytes, media_type: str) -> bytes:
        created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
        manifest = {
            "claim_generator_info": [{"name": SOFTWARE, "version": importlib.metadata.version("light-tts")}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
        }
        out = io.BytesIO()
        # Without a time-stamp authority (ta_url): the gateway connects to no other host.
        info = self._c2pa.C2paSignerInfo(
            alg=self._algorithm.encode(), sign_cert=self._chain, private_key=self._key, ta_url=None
        )
        # One signer per file: an object of the library serves one thread at a time.
        with self._c2pa.Signer.from_info(info) as signer, self._c2pa.Builder(json.dumps(manifest)) as builder:
            builder.sign(signer, media_type, io.BytesIO(audio), out)
        return out.getvalue()


def _algorithm(key: bytes) -> str:
    """Return C2PA's name of the signature algorithm of a private key (PEM). Raises ValueError, TypeError."""
    match load_pem_private_key(key, None):
        case ec.EllipticCurvePrivateKey() as elliptic if elliptic.curve.name in _CURVES:
            return _CURVES[elliptic.curve.name]
        case rsa.RSAPrivateKey():
            return "ps256"
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
        case _:
            raise ValueError("the key must be of P-256, P-384, P-521, Ed25519 or RSA")
