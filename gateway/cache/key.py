"""When two requests ask for the same speech."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

from google.protobuf.message import Message

from gateway.session.options import SpeechOptions

NOT_IN_KEY = frozenset({"voice", "seed", "seed_given", "priority"})
"""Options that change nothing about the audio, or stand in the key by themselves."""


class ResultKey(NamedTuple):
    voice_hash: str
    """Of the voice's content, so that its owner and name do not matter."""
    digest: str
    """SHA-256 (hex) of everything else."""


def result_key(text: str, options: SpeechOptions, voice_hash: str, generation: str) -> ResultKey:
    """`generation` names what speaks: model, settings. A seed that the caller left open is equal to any other such."""
    parts = [text, generation, str(options.seed) if options.seed_given else "any"]
    for field in dataclasses.fields(options):
        if field.name not in NOT_IN_KEY:
            value = getattr(options, field.name)
            known = value.SerializeToString(deterministic=True).hex() if isinstance(value, Message) else repr(value)
            parts.append(f"{field.name}={known}")
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return ResultKey(voice_hash, digest.hexdigest())
