"""Traces: whether a request is sampled is decided before any span exists; an unsampled request costs one comparison.

W3C trace context travels in the `traceparent` header of HTTP and of every bus message. Spans go to OTLP, to a file of
JSON lines (what `inferbus up` uses), or nowhere.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags

from inferbus.settings import TelemetrySettings

_EXPORT_EVERY_MS = 2000
Attributes = Mapping[str, str | int | float | bool]


class FileExporter(SpanExporter):
    """Appends one JSON object per span to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = b"".join(msgspec.json.encode(_plain(span)) + b"\n" for span in spans)
        with self._path.open("ab") as file:
            file.write(lines)
        return SpanExportResult.SUCCESS


class Tracing:
    """Begins spans for the requests that are sampled, and for no others."""

    def __init__(self, service: str, settings: TelemetrySettings) -> None:
        self._ratio = settings.sample_ratio
        exporters = _exporters(settings)
        self.enabled = bool(exporters)
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), sampler=ALWAYS_ON)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_EVERY_MS))
        self._tracer = self._provider.get_tracer("inferbus")

    def begin(
        self, name: str, traceparent: str, kind: SpanKind, attributes: Attributes, *, root: bool = False
    ) -> Span | None:
        """Begin a span under `traceparent`, or None if the request is not sampled.

        `root`: this process decides for requests that come without a trace context (a gateway does, a worker not).
        """
        if not self.enabled:
            return None
        parent = context_from(traceparent)
        if parent is None:
            if not root or random.random() >= self._ratio:  # noqa: S311 - sampling, not secrecy
                return None
            return self._tracer.start_span(name, kind=kind, attributes=dict(attributes))
        if not parent.trace_flags.sampled:
            return None
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        return self._tracer.start_span(name, context=context, kind=kind, attributes=dict(attributes))

    def close(self) -> None:
        """Export what is pending."""
        self._provider.shutdown()


def traceparent_of(span: Span | None, fallback: str = "") -> str:
    """Write the header that makes what comes next a child of `span`."""
    if span is None:
        return fallback
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def end_span(span: Span | None, attributes: Attributes, error: BaseException | None = None) -> None:
    """Finish a span; nothing where the request is not sampled."""
    if span is None:
        return
    span.set_attributes(dict(attributes))
    if error is not None:
        span.set_status(StatusCode.ERROR, str(error))
        span.set_attribute("error.type", getattr(error, "code", type(error).__name__))
    span.end()


def context_from(traceparent: str) -> SpanContext | None:
    """Read a W3C traceparent (`00-<32 hex>-<16 hex>-<2 hex>`); None if it is absent or malformed."""
    parts = traceparent.split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or len(parts[2]) != 16 or len(parts[3]) != 2:
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _exporters(settings: TelemetrySettings) -> list[SpanExporter]:
    exporters: list[SpanExporter] = []
    if settings.trace_file:
        exporters.append(FileExporter(Path(settings.trace_file)))
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra, imported where asked for
            OTLPSpanExporter,
        )

        exporters.append(OTLPSpanExporter(endpoint=settings.otlp_endpoint))
    return exporters


def _plain(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context() or trace.INVALID_SPAN_CONTEXT
    return {
        "name": span.name,
        "service": span.resource.attributes.get("service.name"),
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent is not None else None,
        "kind": span.kind.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
    }
