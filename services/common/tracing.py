"""Traces: one tree of spans per request, over all services, for an OpenTelemetry collector; off unless one is named.

    with tracing.span("utterance", number=3):
        call = stub.Generate(metadata=tracing.outgoing(request_id))    # the other side's spans hang below this one
        tracing.event("moved", reason="died")

Nothing here needs the OpenTelemetry packages (the `otel` extra) until `configure` is called.
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
"""Longest wait for a collector, also when a process ends."""

Value = str | bool | int | float


class TracingError(Exception):
    """Traces cannot be made; the message says what to do."""


class _State:
    provider: TracerProvider | None = None
    tracer: Tracer | None = None


# Not OpenTelemetry's own context: it has to be left where it was entered, which generators of calls cannot promise.
_current: ContextVar[Span | None] = ContextVar("span", default=None)


def configure(service: str, worker: str, endpoint: str, ratio: float, exporter: SpanExporter | None = None) -> None:
    """Begins to trace. `ratio`: share of the requests that are traced, of those whose caller has not decided it.

    `endpoint`: of a collector, OTLP over gRPC: http://host:4317. Raises TracingError without the `otel` extra.
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
    """Lets the last spans leave and traces no more."""
    if _State.provider is not None:
        _State.provider.force_flush()
    _State.provider = _State.tracer = None


@contextlib.contextmanager
def serving(name: str, metadata: Mapping[str, Any]) -> Iterator[None]:
    """A span around what is done for a caller, below the span they named in their metadata or headers."""
    if _State.tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({key: str(value) for key, value in metadata.items()})
    with _entered(_State.tracer.start_span(name, parent, SpanKind.SERVER)):
        note(request_id=current_request_id())
        yield


@contextlib.contextmanager
def span(name: str, **attributes: Value) -> Iterator[None]:
    """A span around a piece of work, below the current one."""
    if _State.tracer is None:
        yield
        return
    from opentelemetry.trace import set_span_in_context

    above = _current.get()
    parent = None if above is None else set_span_in_context(above)
    with _entered(_State.tracer.start_span(name, parent, attributes=attributes)):
        yield


def event(name: str, **attributes: Value) -> None:
    """Something that happened in the current span."""
    if (current := _current.get()) is not None:
        current.add_event(name, attributes)


def note(**attributes: Value) -> None:
    """Something to know of the current span as a whole."""
    if (current := _current.get()) is not None:
        current.set_attributes(attributes)


def outgoing(request_id: str | None = None) -> tuple[tuple[str, str], ...]:
    """Metadata of a call to another service: the request's id, and the span that the other side's hang below."""
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
    except BaseException:  # cancelled: nobody wanted it any more
        entered.set_attribute("cancelled", True)
        raise
    finally:
        _current.set(above)
        entered.end()
