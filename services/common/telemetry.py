"""Structured logs: plain on a terminal, JSON elsewhere; every line has the id of its request."""

from __future__ import annotations

import logging
import sys
import uuid
from typing import Any, Literal

import grpc.aio
import structlog

from services.common.log_rate import LogRate

REQUEST_ID_KEY = "x-request-id"
"""gRPC metadata key and HTTP header that pass the request id from service to service."""
MAX_REQUEST_ID_CHARS = 128


def configure_logging(service: str, worker: str, level: str, style: Literal["auto", "json", "plain"]) -> None:
    """Configure logging of the whole process, including standard-library loggers. Call once, at start."""
    plain = style == "plain" or (style == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if plain
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )

    def add_origin(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not with context variables, because threads start without them.
        return {"service": service, "worker": worker, **event}

    shared: list[structlog.types.Processor] = [
        add_origin,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(LogRate())
    tail: list[structlog.types.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not plain:
        tail.append(structlog.processors.format_exc_info)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*tail, renderer]),
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("grpc._cython.cygrpc").addFilter(drop_departures)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def drop_departures(record: logging.LogRecord) -> bool:
    """Filter out grpcio's tracebacks about clients that have left; services.common.rpc logs a line for each."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, grpc.aio.InternalError)


def new_request_id() -> str:
    """Return a new request id: 32 hex digits."""
    return uuid.uuid4().hex


def given_or_new_request_id(given: str | bytes) -> str:
    """Return the id that a caller sent, or a new one if it is empty or headers, metadata and logs cannot hold it."""
    text = given.decode("latin-1") if isinstance(given, bytes) else given
    usable = 0 < len(text) <= MAX_REQUEST_ID_CHARS and text.isascii() and text.isprintable()
    return text if usable else new_request_id()


def bind_request_id(request_id: str) -> None:
    """Add `request_id` to every log line of the current task and its children."""
    structlog.contextvars.bind_contextvars(request_id=request_id)


def current_request_id() -> str:
    """Return the request id of the current task, or an empty string."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
