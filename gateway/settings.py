"""What the gateway can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from services.common.settings import ServiceSettings
from services.common.tls import TlsFiles


class GatewaySettings(ServiceSettings):
    """Settings of the gateway: what applications talk to, over gRPC and HTTP."""

    port: int = Field(default=50050, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    tls_listen: bool = False
    """Whether applications too must have a certificate of the services' own authority."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the HTTP server; 0 takes a free one."""
    cosyvoice_port: Annotated[int, Field(ge=0, le=65535)] | Literal["off"] = 50000
    """Port where CosyVoice's own clients are served, over gRPC and HTTP alike, always without TLS, as they have none; 0
    takes a free one, off serves none."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the HTTP interfaces, as JSON: ["https://app.example"]; none unless set."""
    max_message_bytes: int = Field(default=24 * 2**20, gt=0)
    """Largest gRPC message accepted, in bytes; a prompt has to fit into one."""
    encode_target: str = "static:///127.0.0.1:50051"
    """Where the encode workers are: static:///host:port,host:port or dns://[server[:port]]/name:port."""
    llm_target: str = "static:///127.0.0.1:50052"
    """Where the llm workers are: static:///host:port,host:port or dns://[server[:port]]/name:port."""
    default_voice: str = ""
    """Voice of requests that name none; empty takes the checkpoint's first."""
    interleaved_text: bool = False
    """Speak a sentence while its text still arrives, where the checkpoint can; otherwise sentence by sentence."""
    max_connection_age_seconds: float = Field(default=600.0, ge=0)
    """A gRPC connection of this age is asked to come anew, so that clients find new gateways; its streams go on.
    0 never asks."""
    max_sessions: int = Field(default=256, ge=1)
    """Streams served at once over all interfaces; one more is refused."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Longest text, in characters, that may wait to be spoken in one stream."""
    max_speech_seconds: float = Field(default=3600.0, gt=0)
    """Most audio, in seconds, of one text, or of a conversation between two flushes or cancels."""
    max_pending_flushes: int = Field(default=100, ge=1)
    """Flushes of one stream that may wait for their audio."""
    max_prompt_bytes: int = Field(default=20 * 2**20, ge=1)
    """Largest prompt audio file, in bytes."""
    voice_cache_bytes: int = Field(default=128 * 2**20, ge=0)
    """Bytes of voices kept in memory at most."""
    audio_queue_messages: int = Field(default=4, ge=1)
    """Audio messages held for one utterance while the listener does not read; then its workers are paused."""
    worker_wait_seconds: float = Field(default=5.0, ge=0)
    """Longest wait for a worker to become available before a request is refused."""
    llm_silence_seconds: float = Field(default=3.0, gt=0)
    """An llm worker that sends nothing, not even a heartbeat, for so long is taken for frozen; another one goes on."""
    llm_stall_seconds: float = Field(default=15.0, gt=0)
    """An llm worker whose engine makes no step for so long is taken for hung; another one goes on."""
    llm_max_moves: int = Field(default=3, ge=0)
    """Times one utterance may go on at another llm worker before it fails."""
    max_lead_seconds: float = Field(default=15.0, gt=0)
    """Seconds of audio a conversation is sent ahead of its listener; offline work and whole texts are not held back."""
    model_poll_seconds: float = Field(default=15.0, gt=0)
    """Seconds between looking up what the encode service serves."""
    idle_seconds: float = Field(default=300.0, gt=0)
    """A stream on which nothing is sent and nothing is read for so long is ended."""
    api_keys_file: Path | None = None
    """YAML file of API keys, by their hashes (see docs/security.md); without one everybody is let in."""
    public_tls_cert: Path | None = None
    """Certificate chain (PEM) that applications see, over gRPC and HTTPS; with public_tls_key."""
    public_tls_key: Path | None = None
    """Its private key (PEM)."""
    public_tls_ca: Path | None = None
    """Certificates (PEM) of an authority: applications must then present a certificate it has signed."""
    redis_url: SecretStr | None = None
    """redis:// or rediss:// address of what several gateways share: quotas, and voices and results if told so."""
    redis_prefix: str = "lighttts:"
    """What every key in Redis begins with."""
    voice_store: Literal["directory", "redis"] = "directory"
    """Where registered voices are kept; redis needs redis_url."""
    voices_dir: Path = Path(".voices")
    """Directory of registered voices; gateways that share it share the voices. Made when the first voice comes."""
    max_voices: int = Field(default=1000, ge=0)
    """Voices that one owner may have registered."""
    max_uploads: int = Field(default=8, ge=1)
    """Voices that may be uploaded at once, over all callers."""
    upload_seconds: float = Field(default=60.0, gt=0)
    """Longest time a voice's upload may take."""
    result_cache: Literal["off", "memory", "redis"] = "off"
    """Whether finished speech is kept and given again when the same text, voice, options and seed are asked for."""
    result_cache_bytes: int = Field(default=256 * 2**20, ge=0)
    """Bytes of speech kept in memory at most."""
    result_cache_seconds: int = Field(default=86_400, ge=1)
    """Speech in Redis lapses so long after the last one with its voice came."""
    result_cache_text_chars: int = Field(default=1000, ge=1)
    """Longer texts are always spoken anew."""
    result_cache_any_seed: bool = False
    """Whether requests that leave the seed open may get the same speech again; otherwise only those that set it."""
    result_cache_generation: str = ""
    """Any text; change it when the checkpoints' weights change, so that nothing of before is given again."""

    @model_validator(mode="after")
    def _check_public_tls(self) -> Self:
        if (self.public_tls_cert is None) != (self.public_tls_key is None):
            raise ValueError("public_tls_cert and public_tls_key belong together; only one is given")
        if self.public_tls_ca is not None and self.public_tls_cert is None:
            raise ValueError("public_tls_ca needs public_tls_cert and public_tls_key")
        if self.public_tls_cert is not None and self.tls_listen:
            raise ValueError("public_tls_cert and tls_listen exclude each other: one port has one certificate")
        return self

    @model_validator(mode="after")
    def _check_redis(self) -> Self:
        for name in ("voice_store", "result_cache"):
            if getattr(self, name) == "redis" and self.redis_url is None:
                raise ValueError(f"{name} redis needs redis_url")
        return self

    @property
    def server_options(self) -> list[tuple[str, int]]:
        options = super().server_options
        if self.max_connection_age_seconds:
            # Without an age grace: a finite one would cut long streams.
            options.append(("grpc.max_connection_age_ms", int(1000 * self.max_connection_age_seconds)))
        return options

    @property
    def public_tls(self) -> TlsFiles | None:
        """What applications are met with; None for plaintext."""
        if self.public_tls_cert is None or self.public_tls_key is None:
            return None
        return TlsFiles(self.public_tls_cert, self.public_tls_key, self.public_tls_ca)

    @property
    def tls_of_server(self) -> TlsFiles | None:
        return self.public_tls or super().tls_of_server
