"""Traces, by OpenTelemetry: off unless a collector is named, and then sent to it by OTLP over gRPC.

Each call of the server is a span, each round of the trainer, and each swap. They lie far apart in
time, so they are traces of their own that are linked: the record of an answer bears the
`traceparent` (W3C) of the call that made it, a piece of feedback that of its call, the manifest of
a checkpoint that of its round; whoever takes one of them up links to it. So a swap leads to its
round, the round to each critique, a critique to the answer it speaks of.

Without a collector no spans are made, but the `traceparent` that a caller sends still goes into
records, log lines and exemplars. What else there is to set (sampling, headers, certificates,
limits) is read by the SDK from the `OTEL_*` variables. A collector that is away costs spans and
nothing else. No span bears text of users.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from learnback_telemetry.context import about

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACEPARENT = "traceparent"
"""Name of the header, and of the key in a call's metadata."""

Attribute = str | int | float | bool | Sequence[str]

_propagator = TraceContextTextMapPropagator()


class Tracer:
    """Makes spans.

    Args:
        provider: Where they go; None: nowhere.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("learnback") if provider else trace.NoOpTracer()

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        parent: str = "",
        links: Iterable[str] = (),
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Iterator[Span]:
        """Opens a span as a piece of work (`context.about`), for as long as the `with` lasts.

        An exception that leaves the `with` says nothing by itself; `fail` does.

        Args:
            name: What is done.
            attributes: What is known of it already.
            parent: The traceparent to go on from; empty: the span that is open here, if any.
            links: Traceparents of what it follows from; those that are empty are left out.
            kind: Whether it is a call that came from outside.
        """
        opened = self._tracer.start_span(
            name,
            _context_of(parent) if parent else None,
            kind,
            dict(attributes or {}),
            [Link(one) for one in map(_span_context, links) if one.is_valid],
        )
        with (
            # An exception's text might bear that of users.
            trace.use_span(opened, True, record_exception=False, set_status_on_exception=False),
            about(trace_id=trace_id_of(traceparent())),
        ):
            yield opened

    def past(self, name: str, began_ns: int, ended_ns: int) -> None:
        """Makes a span of what is over, within the one that is open here.

        Args:
            name: What was done.
            began_ns: When it began, in nanoseconds since 1970.
            ended_ns: When it ended.
        """
        self._tracer.start_span(name, start_time=began_ns).end(ended_ns)

    def close(self) -> None:
        """Sends what has not been sent yet. Takes some seconds if the collector is away."""
        if self._provider is not None:
            self._provider.shutdown()


def open_tracer(service: str, endpoint: str) -> Tracer:
    """Returns the tracer of a program.

    Args:
        service: Its name.
        endpoint: The collector, http://HOST:PORT or https://HOST:PORT; empty: there is none.
    """
    if not endpoint:
        return Tracer()
    # Not before it is wanted: the SDK takes a second to import.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    version = importlib.metadata.version("learnback")
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service, SERVICE_VERSION: version}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return Tracer(provider)


def traceparent() -> str:
    """Returns the traceparent of the span that is open here; empty if there is none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT, "")


def trace_id_of(traceparent: str) -> str:
    """Returns the trace id in a traceparent; empty if there is none."""
    context = _span_context(traceparent)
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def describe(attributes: Mapping[str, Attribute]) -> None:
    """Adds to what is known of the span that is open here."""
    trace.get_current_span().set_attributes(dict(attributes))


def link_to(traceparent: str) -> None:
    """Links the span that is open here to what it follows from, if that was traced."""
    context = _span_context(traceparent)
    if context.is_valid:
        trace.get_current_span().add_link(context)


def fail(reason: str) -> None:
    """Says that what the span that is open here stands for has failed."""
    trace.get_current_span().set_status(StatusCode.ERROR, reason)


def _context_of(traceparent: str) -> Context:
    # Nothing of the context around: a malformed header must not make a child of what is open.
    return trace.set_span_in_context(NonRecordingSpan(_span_context(traceparent)), Context())


def _span_context(traceparent: str) -> SpanContext:
    """Reads a traceparent; what is none gives an invalid context."""
    context = _propagator.extract({TRACEPARENT: traceparent}, Context())
    return trace.get_current_span(context).get_span_context()
