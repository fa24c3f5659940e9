"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from gateway.aliases import check_rules
from gateway.audio.formats import Provenance
from gateway.auth.origin import is_loopback
from gateway.process.connections import connection_limit
from gateway.voices.consent import Policy
from services.common.settings import ServiceSettings
from services.common.tls import TlsFiles

STREAMS_PER_SESSION = 4
"""gRPC calls per place for a session: one connection may carry all sessions, and calls that need no session."""
CLIENT_SILENCE_MS = 10_000
"""Longest wait for a client's answer to a PING. Between our services it is a second, because a frozen worker must be
noticed before its listener notices. A client may be on a network that stalls for seconds."""


def _nothing_or_a_mebibyte(size: int) -> int:
    if 0 < size < 2**20:
        raise ValueError("use 0, or at least 1048576 (1 MiB)")
    return size


class GatewaySettings(ServiceSettings):
    """Settings of the gateway, which serves applications over gRPC and HTTP."""

    port: int = Field(default=50050, ge=0, le=65535)
    """Port of the gRPC server; 0 selects a free one."""
    tls_listen: bool = False
    """Whether applications too must present a certificate of the services' own authority."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the HTTP server; 0 selects a free one."""
    cosyvoice_port: Annotated[int, Field(ge=0, le=65535)] | Literal["off"] = 50000
    """Port for CosyVoice's own clients, gRPC and HTTP alike; 0 selects a free one, off disables it. With
    public_tls_cert it needs TLS, which those clients lack."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the HTTP APIs and open WebSockets, as JSON: ["https://app.example"]; the
    gateway's own page always may."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names under which the HTTP ports may be called, as JSON: ["tts.example"]; names of this machine always may.
    Empty: any name, except for a gateway without API keys that listens on a loopback address."""
    max_message_bytes: int = Field(default=24 * 2**20, gt=0)
    """Largest gRPC message accepted, in bytes; a prompt must fit into one."""
    encode_target: str = "static:///127.0.0.1:50051"
    """Addresses of the encode workers: static:///host:port,host:port or dns://[server[:port]]/name:port."""
    llm_target: str = "static:///127.0.0.1:50052"
    """Addresses of the llm workers: static:///host:port,host:port or dns://[server[:port]]/name:port."""
    default_voice: str = ""
    """Voice of requests that name none; empty: the checkpoint's first voice."""
    voice_aliases: Annotated[str, AfterValidator(check_rules)] = ""
    """Voices for names that do not exist here, such as alloy=anna,nova=hugo,en-*= (empty after = is the default voice);
    names of OpenAI's, NVIDIA's and ElevenLabs' clients follow as the default voice unless !PATTERN refuses them."""
    model_aliases: Annotated[str, AfterValidator(check_rules)] = ""
    """Styles for model names of OpenAI's and ElevenLabs' APIs that do not exist here, by the rules of voice_aliases:
    tts-1-hd=calm."""
    strict_instructions: bool = False
    """Refuse instructions on how to speak if the checkpoint cannot follow them; otherwise they are ignored, and the
    answer has a warning."""
    interleaved_text: bool = False
    """Speak a sentence before its text is complete, if the checkpoint can; otherwise wait for whole sentences."""
    max_connection_age_seconds: float = Field(default=600.0, ge=0)
    """Maximum age of a gRPC connection; older ones get GOAWAY so that clients reconnect and find new gateways. Open
    streams continue. 0: no maximum."""
    max_sessions: int = Field(default=256, ge=1)
    """Most streams at once over all APIs; further ones are refused."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Longest text, in characters, that may wait to be spoken in one stream."""
    max_speech_seconds: float = Field(default=3600.0, gt=0)
    """Most audio, in seconds, of one text, or of a conversation between two flushes or cancels."""
    max_pending_flushes: int = Field(default=100, ge=1)
    """Flushes of one stream that may wait for their audio."""
    max_prompt_bytes: int = Field(default=20 * 2**20, ge=1)
    """Largest prompt audio file, in bytes."""
    voice_cache_bytes: int = Field(default=128 * 2**20, ge=0)
    """Most bytes of voices kept in memory."""
    audio_queue_messages: int = Field(default=4, ge=1)
    """Audio messages buffered per utterance; when the buffer is full, the workers of the utterance pause."""
    health_grace_seconds: float = Field(default=10.0, ge=0)
    """Outages of the services behind the gateway that are shorter, in seconds, do not change /health and the
    end-to-end health service."""
    worker_wait_seconds: float = Field(default=5.0, ge=0)
    """Longest wait for an available worker, in seconds, before a request is refused."""
    llm_frozen_seconds: float = Field(default=0.3, ge=0)
    """Seconds without a message or heartbeat after which another llm worker continues, if other llm workers answer
    health checks and this one does not; longer while all of them are slow. 0: only llm_silence_seconds counts."""
    llm_silence_seconds: float = Field(default=3.0, gt=0)
    """Seconds without a message or heartbeat after which an llm worker counts as frozen and another one continues."""
    llm_stall_seconds: float = Field(default=15.0, gt=0)
    """Seconds without an engine step after which an llm worker counts as hung and another one continues."""
    llm_max_moves: int = Field(default=3, ge=0)
    """Times one utterance may move to another llm worker before it fails."""
    session_patience_seconds: float = Field(default=30.0, ge=0)
    """Longest wait in seconds for a free worker in the middle of a stream; then the stream ends. A new stream does not
    wait: it is refused at once when all workers are full."""
    refusal_seconds: float = Field(default=0.5, ge=0)
    """Seconds for which the refusal of a new stream by full workers also holds for the new streams that follow, unless
    an utterance ends before: they are refused at once, without a call to a worker. 0: each stream asks the workers."""
    max_lead_seconds: float = Field(default=15.0, gt=0)
    """Seconds of audio sent ahead of the listener in a conversation; offline work and whole texts are not limited."""
    model_poll_seconds: float = Field(default=15.0, gt=0)
    """Seconds between queries to the encode service for its model and voices."""
    idle_seconds: float = Field(default=300.0, gt=0)
    """Seconds without reads or writes after which a stream is closed."""
    api_keys_file: Path | None = None
    """YAML file with the hashes of API keys (see docs/security.md); without it, no key is needed."""
    watermark_key_file: Path | None = None
    """File of the watermark's secret keys, with which /v1/audio/detect searches recordings; see docs/marking.md."""
    provenance: Provenance = "on"
    """How answers say that their speech is synthetic. on: the header x-synthetic-speech, and a comment in MP3, FLAC and
    Ogg; all: also a chunk in WAV, whose header is then longer than the 44 bytes that many clients skip; off: nothing.
    """
    c2pa_cert: Path | None = None
    """Certificate chain (PEM) with which answers that are not streamed are signed (C2PA; WAV, MP3 and FLAC); needs
    c2pa_key and the extra c2pa; see docs/marking.md."""
    c2pa_key: Path | None = None
    """Private key (PEM) of c2pa_cert."""
    public_tls_cert: Path | None = None
    """Certificate chain (PEM) for applications, over gRPC and HTTPS; needs public_tls_key."""
    public_tls_key: Path | None = None
    """Private key (PEM) of public_tls_cert."""
    public_tls_ca: Path | None = None
    """Certificates (PEM) of an authority; if set, applications must present a certificate that it has signed."""
    redis_url: SecretStr | None = None
    """redis:// or rediss:// address of state that gateways share: quotas, and voices and results if set to redis."""
    redis_prefix: str = "lighttts:"
    """Prefix of every key in Redis."""
    voice_store: Literal["directory", "redis"] = "directory"
    """Where registered voices are stored; redis needs redis_url."""
    voices_dir: Path = Path(".voices")
    """Directory of registered voices; gateways that share it share the voices. Created with the first voice."""
    max_voices: int = Field(default=1000, ge=0)
    """Most registered voices of one owner."""
    consent_policy: Policy = "none"
    """What the registration of a voice must state besides that the recorded person has agreed. attestation: who agreed
    and when; recording: also a recorded consent; see docs/marking.md."""
    max_lexicon_entries: int = Field(default=1000, ge=0, le=1900)
    """Most pronunciations in the lexicon of one owner."""
    max_uploads: int = Field(default=8, ge=1)
    """Most voice uploads at once, over all callers."""
    max_uploads_per_key: int = Field(default=2, ge=1)
    """Most voice uploads at once of one API key; without keys only max_uploads applies."""
    upload_seconds: float = Field(default=60.0, gt=0)
    """Longest duration of a voice upload, in seconds."""
    handshake_seconds: float = Field(default=10.0, gt=0)
    """Longest duration of the TLS handshake of a connection, in seconds."""
    header_seconds: float = Field(default=10.0, gt=0)
    """Longest time in which the headers of an HTTP request must arrive, in seconds."""
    first_message_seconds: float = Field(default=10.0, gt=0)
    """Longest wait, in seconds, for the first byte of an HTTP body, the first frame of a WebSocket, the first message
    of a gRPC call, and each part of a voice upload."""
    body_seconds: float = Field(default=60.0, gt=0)
    """Longest duration of a whole HTTP body, and of a WebSocket's prompt, in seconds."""
    body_budget_bytes: Annotated[int, AfterValidator(_nothing_or_a_mebibyte)] = Field(default=0, ge=0)
    """Most bytes of HTTP bodies, WebSocket prompts and gRPC messages held at once, over all open requests; one API key
    may use half of it. Further requests are refused. The memory must hold three times as much, and the caches. 0:
    256 MiB, or less if the memory is small."""
    max_connections: int = Field(default=1024, ge=1)
    """Most connections of each port at once; less if the process may open few files. At the limit, the oldest
    connection without a request is closed."""
    max_connections_per_address: int = Field(default=512, ge=1)
    """Most HTTP connections of one client address at once, for each port; at most half of max_connections. A proxy
    counts as one address."""
    result_cache: Literal["off", "memory", "redis"] = "off"
    """Whether and where finished speech is stored, to serve requests with the same text, voice, options and seed."""
    result_cache_bytes: int = Field(default=256 * 2**20, ge=0)
    """Most bytes of speech kept in memory."""
    result_cache_seconds: int = Field(default=86_400, ge=1)
    """Seconds after which all speech of a voice in Redis expires, counted from its newest entry."""
    result_cache_text_chars: int = Field(default=1000, ge=1)
    """Longest text, in characters, whose speech is cached."""
    result_cache_any_seed: bool = False
    """Whether requests without a seed may get cached speech; otherwise only requests with a seed may."""
    result_cache_generation: str = ""
    """Cache version, any text; change it when the weights change to invalidate cached speech."""
    result_cache_shared: bool = False
    """Whether API keys share cached speech; then the time of an answer shows whether another key asked for the text."""

    @model_validator(mode="after")
    def _check_public_tls(self) -> Self:
        if (self.public_tls_cert is None) != (self.public_tls_key is None):
            raise ValueError("public_tls_cert and public_tls_key belong together; only one is given")
        if self.public_tls_ca is not None and self.public_tls_cert is None:
            raise ValueError("public_tls_ca needs public_tls_cert and public_tls_key")
        if self.public_tls_cert is not None and self.tls_listen:
            raise ValueError("public_tls_cert and tls_listen exclude each other: one port has one certificate")
        if self.tls_listen and self.tls is None:
            raise ValueError("tls_listen needs tls_cert, tls_key and tls_ca")
        required = "public_tls_ca" if self.public_tls_ca is not None else "tls_listen"
        if (self.tls_listen or self.public_tls_ca is not None) and self.cosyvoice_port != "off":
            raise ValueError(
                f"{required} requires certificates of applications, and the port for CosyVoice's clients cannot:"
                " set cosyvoice_port to off"
            )
        return self

    @model_validator(mode="after")
    def _check_c2pa(self) -> Self:
        if (self.c2pa_cert is None) != (self.c2pa_key is None):
            raise ValueError("c2pa_cert and c2pa_key belong together; only one is given")
        return self

    @model_validator(mode="after")
    def _check_redis(self) -> Self:
        for name in ("voice_store", "result_cache"):
            if getattr(self, name) == "redis" and self.redis_url is None:
                raise ValueError(f"{name} redis needs redis_url")
        return self

    @property
    def server_options(self) -> list[tuple[str, int]]:
        options = [
            *super().server_options,
            ("grpc.server_handshake_timeout_ms", int(1000 * self.handshake_seconds)),
            ("grpc.max_allowed_incoming_connections", connection_limit(self.max_connections)),
            ("grpc.max_concurrent_streams", STREAMS_PER_SESSION * self.max_sessions),  # of one connection
            ("grpc.keepalive_timeout_ms", CLIENT_SILENCE_MS),
            ("grpc.http2.ping_timeout_ms", CLIENT_SILENCE_MS),
        ]
        if self.max_connection_age_seconds:
            # No age grace: a finite one would cut long streams.
            options.append(("grpc.max_connection_age_ms", int(1000 * self.max_connection_age_seconds)))
        return options

    @property
    def checked_hosts(self) -> frozenset[str] | None:
        """The host names to accept besides those of this machine; None accepts any."""
        if not self.allowed_hosts and (self.api_keys_file is not None or not is_loopback(self.host)):
            return None
        return frozenset(name.lower() for name in self.allowed_hosts)

    @property
    def public_tls(self) -> TlsFiles | None:
        """Certificate and key that applications see; None for plaintext."""
        if self.public_tls_cert is None or self.public_tls_key is None:
            return None
        return TlsFiles(self.public_tls_cert, self.public_tls_key, self.public_tls_ca)

    @property
    def tls_of_server(self) -> TlsFiles | None:
        return self.public_tls or super().tls_of_server
