"""The specification of a stream, and the record from which another worker continues it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.engine.places import NEW_SESSION, Place
from services.decode.engine.hops import HopPolicy

_MAGIC, _HEADER = b"LTD2", struct.Struct("<4sIQ8I16s")
_MAGIC_1, _HEADER_1 = b"LTD1", struct.Struct("<4sIQ8I")
"""Version 1, of the last release: without the hash of the weights."""
NO_WEIGHTS = bytes(16)
MAX_SEED = 2**64 - 1


class StreamError(ValueError):
    """Invalid input of a stream; the message names the problem and what to change."""


class RecordMismatch(StreamError):
    """A resume record of another version or of other weights: another worker may fit, or a new start does."""


@dataclass(frozen=True, eq=False)
class StreamSpec:
    """A stream to decode: a voice and its options.

    prompt_tokens int [P] (P may be 0), prompt_mel float32 [2P, 80], embedding float32 [speaker_dim]. Together with
    `seed`, `plan`, `full_attention_last`, `speed` and the tokens pushed later they determine the audio.
    """

    prompt_tokens: NDArray[np.int32] = field(repr=False)
    prompt_mel: NDArray[np.float32] = field(repr=False)
    embedding: NDArray[np.float32] = field(repr=False)
    voice: str = ""
    """Content hash of these three; streams with the same hash share the cached prompt. Empty: nothing is shared."""
    seed: int = 0
    plan: ChunkPlan = field(default_factory=ChunkPlan)
    full_attention_last: bool = False
    """Upstream's mode: the last hop attends to the whole utterance (spec section 6.4). Default: chunk-causal."""
    speed: float = 1.0
    """Speaking rate: 2 is twice as fast."""
    hops: HopPolicy = field(default_factory=HopPolicy)
    resume: bytes = field(default=b"", repr=False)
    """Continue after this record, with its plan and seed. Push all tokens of the utterance, from the first one."""
    deadline: float | None = None
    """When the first audio is due, in seconds of `time.monotonic`; None: the engine's default target."""
    play_at: float | None = None
    """When the listener has played the session's earlier audio, in seconds of `time.monotonic`; this utterance is
    played from then on. None: it is played at once."""
    offline: bool = False
    """No listener waits for this audio: largest hops, lowest urgency."""
    max_unread_s: float | None = None
    """Seconds of unacknowledged audio at which the stream pauses; None: it never pauses."""
    place: Place = NEW_SESSION
    """The session that the utterance belongs to; the engine's limits refuse new sessions only."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.speed <= 10:
            raise StreamError(f"speed {self.speed} is outside 0.1 to 10; 1 is the voice's own rate")
        if not 0 <= self.seed <= MAX_SEED:
            raise StreamError(f"seed {self.seed} is not an unsigned 64-bit integer")
        if self.max_unread_s is not None and self.max_unread_s <= 0:
            raise StreamError(f"max_unread_s {self.max_unread_s} must be positive, or None for no limit")


@dataclass(frozen=True, eq=False)
class ResumeRecord:
    """What another worker needs, with the voice and the tokens, to continue seamlessly.

    The flow is a function of the tokens and is recomputed; only the vocoder has state that depends on its history.
    """

    plan: ChunkPlan
    seed: int
    done: int
    """Tokens decoded, prompt included: the start of the next hop."""
    emitted: int
    """Mel frames (after `speed`) whose audio has been sent; one frame is 480 samples."""
    start: int
    """Frame of `mel`'s first row."""
    mel: NDArray[np.float32] = field(repr=False)
    """[emitted - start, mel]: the vocoder's left context."""
    phase: NDArray[np.float64] = field(repr=False)
    """[harmonics] phase in turns at the start of the vocoder's window."""
    weights: bytes = NO_WEIGHTS
    """Hash of the weights of flow and vocoder, 16 bytes; `NO_WEIGHTS` if it is not known."""

    def check_weights(self, weights: bytes) -> None:
        """Raise RecordMismatch if the record is of other weights; an unknown hash on either side fits all."""
        if self.weights != weights and NO_WEIGHTS not in (self.weights, weights):
            raise RecordMismatch("the resume record is of other weights; start the utterance again")

    def to_bytes(self) -> bytes:
        """Little-endian: magic, CRC-32 of the rest, seed, eight counts, hash of the weights, mel rows, phases."""
        plan = (self.plan.first_boundary, self.plan.chunk_tokens)
        counts = (*plan, self.done, self.emitted, self.start, *self.mel.shape, self.phase.shape[0])
        body = self.mel.astype("<f4").tobytes() + self.phase.astype("<f8").tobytes()
        unchecked = _HEADER.pack(_MAGIC, 0, self.seed, *counts, self.weights) + body
        return _HEADER.pack(_MAGIC, zlib.crc32(unchecked), self.seed, *counts, self.weights) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> ResumeRecord:
        """Parse a record of this version or of version 1, which has no hash of the weights.

        Raises RecordMismatch for another version, StreamError if the bytes are incomplete or damaged.
        """
        magic = data[:4]
        header = {_MAGIC: _HEADER, _MAGIC_1: _HEADER_1}.get(magic)
        if header is None:
            raise RecordMismatch("the resume record is of another version; start the utterance again")
        if len(data) < header.size:
            raise StreamError("the resume record is damaged; start the utterance again")
        _, checksum, seed, *counts = header.unpack_from(data)
        body = data[header.size :]
        intact = zlib.crc32(header.pack(magic, 0, seed, *counts) + body) == checksum
        weights = counts.pop() if magic == _MAGIC else NO_WEIGHTS
        first_boundary, chunk_tokens, done, emitted, start, rows, bins, harmonics = counts
        if not intact or len(body) != 4 * rows * bins + 8 * harmonics or emitted != start + rows:
            raise StreamError("the resume record is damaged; start the utterance again")
        mel = np.frombuffer(body, "<f4", rows * bins).reshape(rows, bins).astype(np.float32)
        phase = np.frombuffer(body, "<f8", harmonics, 4 * rows * bins).astype(np.float64)
        try:
            plan = ChunkPlan(first_boundary, chunk_tokens)
        except ValueError as error:
            raise StreamError(f"the resume record is damaged ({error}); start the utterance again") from error
        return cls(plan, seed, done, emitted, start, mel, phase, weights)
