"""The key of the result cache: equal for requests that ask for the same speech."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

from google.protobuf.message import Message

from gateway.session.options import SpeechOptions

NOT_IN_KEY = frozenset({"voice", "seed", "seed_given", "priority", "text_wait_seconds"})
"""Options that do not change the audio, or that the key includes separately."""


class ResultKey(NamedTuple):
    voice_hash: str
    """Hash of the voice's content, so that its owner and name do not matter."""
    digest: str
    """SHA-256 (hex) of everything else."""


def result_key(text: str, options: SpeechOptions, voice_hash: str, generation: str, scope: str = "") -> ResultKey:
    """Build the key. `generation` identifies model and settings, `scope` the callers that share the result.

    Requests without a seed are equal to each other.
    """
    parts = [text, generation, scope, str(options.seed) if options.seed_given else "any"]
    for field in dataclasses.fields(options):
        if field.name not in NOT_IN_KEY:
            value = getattr(options, field.name)
            stable = value.SerializeToString(deterministic=True).hex() if isinstance(value, Message) else repr(value)
            parts.append(f"{field.name}={stable}")
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return ResultKey(voice_hash, digest.hexdigest())
