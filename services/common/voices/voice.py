"""The content of a voice: everything that the llm and the flow need to speak like a prompt, addressed by its hash.

Services send a voice by its hash first and send the content (100-500 kB) on request. This module needs only numpy and
the standard library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDir

_FORMAT = b"light-tts voice 1"


@dataclass(frozen=True, eq=False)
class Voice:
    """One zero-shot prompt, P speech tokens long (25 Hz). The arrays are read-only and may be shared by streams."""

    hash: str
    """SHA-256 (hex) over prompt audio, transcript and model identity: `voice_hash`."""
    transcript: str
    prompt_text_ids: NDArray[np.int32]
    """[n] text ids of the normalised transcript."""
    speech_tokens: NDArray[np.int32]
    """[P] speech ids of the prompt."""
    mel: NDArray[np.float32]
    """[2P, 80] log mel of the prompt at 50 Hz, aligned with the tokens (spec section 3.5)."""
    embedding: NDArray[np.float32]
    """[n] speaker embedding; n is `spk_embed_dim` of the model directory."""
    seconds: float
    """Length of the used prompt, after trimming."""
    warnings: tuple[str, ...] = field(default=())
    """Sentences for the user about the prompt (trimmed, quiet, clipped ...)."""

    def __post_init__(self) -> None:
        for array in self.arrays():
            array.flags.writeable = False

    def arrays(self) -> tuple[NDArray[np.int32] | NDArray[np.float32], ...]:
        return self.prompt_text_ids, self.speech_tokens, self.mel, self.embedding

    @property
    def nbytes(self) -> int:
        """Approximate size in memory, in bytes, for the limits of caches."""
        return sum(array.nbytes for array in self.arrays()) + len(self.transcript.encode("utf-8", "replace"))


def voice_hash(audio: bytes, transcript: str, identity: str) -> str:
    """Return the hash (hex) of the voice of `audio` (the uploaded file's bytes) and `transcript` on a model."""
    digest = hashlib.sha256(_FORMAT)
    for part in (audio, transcript.encode("utf-8", "surrogatepass"), identity.encode()):
        digest.update(len(part).to_bytes(8, "little"))  # so that different splits of the same bytes differ
        digest.update(part)
    return digest.hexdigest()


def model_identity(files: Iterable[Path]) -> str:
    """Return a cheap fingerprint (hex) of a model's files: names, sizes and the first and last 64 KiB of each.

    It takes a few milliseconds for files of any size. Two checkpoints that differ only in the middle of equally large
    files get the same fingerprint; weights saved after further training differ from their first tensor on.
    """
    digest = hashlib.sha256(_FORMAT)
    for path in sorted(files, key=lambda path: path.name):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(65536))
            stream.seek(max(65536, size - 65536))
            digest.update(stream.read())
    return digest.hexdigest()


def voice_identity(model: ModelDir) -> str:
    """Return the fingerprint of the inputs to a voice: configuration, tokenizer and front-end graphs.

    The llm, flow and vocoder weights are left out, because a voice does not depend on them: checkpoints fine-tuned from
    one base share its voices.
    """
    names = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
    tokenizer = [path for path in (model.tokenizer_dir / name for name in names) if path.is_file()]
    yaml = model.path / model.family.yaml
    return model_identity([yaml, model.speaker_encoder, model.speech_tokenizer, *tokenizer])
