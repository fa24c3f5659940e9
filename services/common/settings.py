"""Settings of all services: each service has one frozen, documented class that extends `ServiceSettings`.

A command-line flag (`--log-level debug`) overrides the environment (`LIGHTTTS_LOG_LEVEL=debug`), which overrides the
defaults below. `--help` of each service prints every field with its text.
"""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.tls import TlsFiles

EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class renamed_value:  # noqa: N801 - used as a function in annotations
    """Accept the former value `old` of a setting as `new`, and log a warning that names the setting and the new value.

    Annotates a field: `backend: Annotated[Literal["torch", "simulated"], renamed_value("clocked", "simulated")]`.
    The JSON schema, hence the chart, accepts the former value too.
    """

    old: str
    new: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._convert, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        described["enum"] = [*described["enum"], self.old]
        return described

    def _convert(self, value: object, info: ValidationInfo) -> object:
        if value != self.old:
            return value
        # Before the log is configured, such a line goes to stderr as it is.
        variable = f"LIGHTTTS_{str(info.field_name).upper()}"
        log.warning(
            "%s=%s is deprecated and will be refused in the next release; set %s instead", variable, self.old, self.new
        )
        return self.new


class Settings(BaseSettings):
    """Base of all settings: environment prefix `LIGHTTTS_`, immutable, unknown flags refused."""

    model_config = SettingsConfigDict(
        env_prefix="LIGHTTTS_",
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> Self:
        """Parse `arguments` (default: the process's own) over the environment.

        An invalid flag or value ends the process with exit code 2 and a line on stderr that names it.
        """
        try:
            return cls(_cli_parse_args=True if arguments is None else arguments)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                if not problem["loc"]:  # about several settings at once
                    sys.stderr.write(f"{problem['msg']}\n")
                    continue
                name = str(problem["loc"][0])
                flag, variable = name.replace("_", "-"), name.upper()
                sys.stderr.write(f"--{flag} (LIGHTTTS_{variable}): {problem['msg']}, got {problem['input']!r}\n")
            raise SystemExit(2) from error


class ServiceSettings(Settings):
    """Settings of every process of the system."""

    host: str = "127.0.0.1"
    """Address on which the gRPC server listens; 0.0.0.0 or [::] in containers."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port of the gRPC server; 0 selects a free one."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of the Prometheus endpoint /metrics; 0 disables it."""
    worker_name: str = Field(default_factory=socket.gethostname)
    """Name of this worker in events, logs and metrics; in a cluster the pod's name."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity of the log lines that are written."""
    log_format: Literal["auto", "json", "plain"] = "auto"
    """Format of log lines: json, plain (for people), or auto (plain on a terminal, otherwise json)."""
    otel_endpoint: str = ""
    """OpenTelemetry collector for traces (OTLP over gRPC), such as http://collector:4317; empty disables traces."""
    otel_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of requests to trace, from 0 to 1, if the caller's trace context does not decide it."""
    drain_notice_seconds: float = Field(default=1.0, ge=0)
    """On SIGTERM: seconds between reporting NOT_SERVING and refusing new streams, so that clients stop sending them."""
    drain_grace_seconds: float = Field(default=30.0, ge=0)
    """On SIGTERM: longest wait for running streams to finish, in seconds."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) of this worker for mutual TLS between the services; needs tls_key and tls_ca."""
    tls_key: Path | None = None
    """Private key (PEM) of tls_cert."""
    tls_ca: Path | None = None
    """Certificates (PEM) of the authority that signs every worker's certificate."""
    tls_server_name: str = "light-tts.internal"
    """Name in every worker's certificate; clients check it, because they dial workers by address."""
    tls_listen: bool = True
    """Whether the gRPC port uses TLS when tls_cert is set; outgoing connections always do."""
    health_port: int = Field(default=0, ge=0, le=65535)
    """Plaintext port that serves only health checks, for probes without a certificate; 0 disables it."""
    max_message_bytes: int = Field(default=16 * 2**20, gt=0)
    """Largest gRPC message accepted, in bytes."""

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        given = [name for name in ("tls_cert", "tls_key", "tls_ca") if getattr(self, name) is not None]
        if len(given) not in (0, 3):
            raise ValueError(f"mutual TLS needs tls_cert, tls_key and tls_ca; only {', '.join(given)} is given")
        return self

    @property
    def server_options(self) -> list[tuple[str, int]]:
        """gRPC options of the server, in addition to `channel_options` and in their place."""
        # Without this, two processes on one port would silently share its calls; a port in use must be an error.
        return [("grpc.so_reuseport", 0)]

    @property
    def tls(self) -> TlsFiles | None:
        """The files of mutual TLS; None without it."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def tls_of_server(self) -> TlsFiles | None:
        """The TLS files of the gRPC port; None for plaintext."""
        return self.tls if self.tls_listen else None


class ModelServiceSettings(ServiceSettings):
    """Additional settings of services that run a model."""

    model_dir: Path = EMBEDDED_MODEL
    """Model directory in the official CosyVoice2/3 layout; default: the embedded demonstration voice."""
    torch_threads: int = Field(default=1, ge=1)
    """CPU threads that torch uses for one operation."""
    heartbeat_seconds: float = Field(default=0.1, gt=0)
    """Seconds between heartbeats on a stream."""
