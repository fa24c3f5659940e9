"""Traces: one tree of spans per request across all services, for an OpenTelemetry collector. Off by default.

    with tracing.span("utterance", number=3):
        call = stub.Generate(metadata=tracing.outgoing(request_id))    # the other service's spans become children
        tracing.event("moved", reason="died")

The OpenTelemetry packages (the `otel` extra) are needed only after `configure` is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from services.common.telemetry import REQUEST_ID_KEY, current_request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

EXPORT_SECONDS = 3.0
"""Longest wait for a collector, also at the end of a process."""

Value = str | bool | int | float


class TracingError(Exception):
    """Traces cannot be recorded; the message says what to do."""


class _State:
    provider: TracerProvider | None = None
    tracer: Tracer | None = None


# Not OpenTelemetry's own context: it must be left in the context that entered it, which async generators may not do.
_current: ContextVar[Span | None] = ContextVar("span", default=None)


def configure(service: str, worker: str, endpoint: str, ratio: float, exporter: SpanExporter | None = None) -> None:
    """Start to record traces. Raises TracingError without the `otel` extra.

    Args:
        service: short name of the service.
        worker: name of this process.
        endpoint: address of a collector (OTLP over gRPC), such as http://host:4317.
        ratio: share of requests to trace, from 0 to 1, if the caller's trace context does not decide it.
        exporter: used instead of `endpoint`, for tests.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise TracingError("traces need OpenTelemetry: pip install 'light-tts[otel]'") from error
    resource = Resource.create({"service.name": f"light-tts-{service}", "service.instance.id": worker})
    provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(ratio), shutdown_on_exit=False)
    if exporter is None:
        remote = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=EXPORT_SECONDS
        )
        provider.add_span_processor(BatchSpanProcessor(remote))
    else:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    _State.provider, _State.tracer = provider, provider.get_tracer("lighttts")


def close() -> None:
    """Export the last spans and stop tracing."""
    if _State.provider is not None:
        _State.provider.force_flush()
    _State.provider = _State.tracer = None


@contextlib.contextmanager
def serving(name: str, metadata: Mapping[str, Any]) -> Iterator[None]:
    """Record the block as a server span, child of the span in the caller's metadata or headers."""
    if _State.tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({key: str(value) for key, value in metadata.items()})
    attributes = {"request_id": current_request_id()}
    with _entered(_State.tracer.start_span(name, parent, SpanKind.SERVER, attributes)):
        yield


@contextlib.contextmanager
def span(name: str, **attributes: Value) -> Iterator[None]:
    """Record the block as a child of the current span."""
    if _State.tracer is None:
        yield
        return
    from opentelemetry.trace import set_span_in_context

    above = _current.get()
    parent = None if above is None else set_span_in_context(above)
    with _entered(_State.tracer.start_span(name, parent, attributes=attributes)):
        yield


def rename(name: str) -> None:
    """Rename the current span, for names that are known only after it has begun."""
    if (current := _current.get()) is not None:
        current.update_name(name)


def event(name: str, **attributes: Value) -> None:
    """Add an event to the current span."""
    if (current := _current.get()) is not None:
        current.add_event(name, attributes)


def outgoing(request_id: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call to another service: the request id, and the current span as parent."""
    headers = {REQUEST_ID_KEY: current_request_id() if request_id is None else request_id}
    if (current := _current.get()) is not None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers, set_span_in_context(current))
    return tuple(headers.items())


@contextlib.contextmanager
def _entered(entered: Span) -> Iterator[None]:
    from opentelemetry.trace import StatusCode

    above = _current.get()
    _current.set(entered)
    try:
        yield
    except Exception as error:
        entered.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise
    except BaseException:  # cancelled
        entered.set_attribute("cancelled", True)
        raise
    finally:
        _current.set(above)
        entered.end()
