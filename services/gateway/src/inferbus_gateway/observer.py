"""One canonical log line and the metrics of every request, from the same record, once, when it is over."""

from __future__ import annotations

import time

import structlog
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from inferbus.contracts.step import Usage
from inferbus.telemetry.tracing import end_span

TTFT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
UNKNOWN = "unknown"

ADMISSION, QUEUED, PREFILL, DECODE, DONE = "admission", "queued", "prefill", "decode", "done"


class RequestRecord:
    """What is known about one request so far. Written by the door while it goes on, read once at the end.

    `phase` is where it ended: admission, queued, prefill (an engine had it, nothing came yet; for answers that are not
    streamed also decoding), decode, done. `model` is a known model's name, else empty.
    """

    __slots__ = (
        "began",
        "error",
        "failure",
        "first_chunk",
        "model",
        "path",
        "phase",
        "request_id",
        "requested_model",
        "span",
        "status",
        "streamed",
        "tenant",
        "usage",
    )

    def __init__(self, path: str, request_id: str) -> None:
        self.path = path
        self.request_id = request_id
        self.began = time.monotonic()
        self.first_chunk = 0.0
        self.tenant = ""
        self.model = ""
        self.requested_model = ""
        self.streamed = False
        self.status = 0
        self.error = ""
        self.failure: BaseException | None = None
        self.phase = ADMISSION
        self.usage = _NOTHING_SPENT
        self.span: Span | None = None


_NOTHING_SPENT = Usage()


class _Series:
    """The label children of one (path, model): looked up once, then kept."""

    def __init__(self, observer: Observer, path: str, model: str) -> None:
        self.ttft: Histogram | None = None  # made by the first stream: most paths have none
        self.duration = observer.duration.labels(path, model)
        self.prompt_tokens = observer.tokens.labels(model, "prompt")
        self.completion_tokens = observer.tokens.labels(model, "completion")
        self.by_status: dict[int, Counter] = {}


class Observer:
    """Counts open requests and writes down the finished ones. Make it after logging is configured."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open_requests = 0
        self.open_streams = 0
        self._log = structlog.get_logger().bind()
        self._series: dict[tuple[str, str], _Series] = {}
        self.requests = Counter(
            "inferbus_gateway_requests_total",
            "Finished requests; 499 is a client that left.",
            ["path", "model", "status"],
            registry=registry,
        )
        labels = ["path", "model"]
        self.ttft = Histogram(
            "inferbus_gateway_ttft_seconds",
            "From the request's arrival to its first streamed chunk.",
            labels,
            registry=registry,
            buckets=TTFT_BUCKETS_S,
        )
        self.duration = Histogram(
            "inferbus_gateway_duration_seconds",
            "From the request's arrival to its end.",
            labels,
            registry=registry,
            buckets=DURATION_BUCKETS_S,
        )
        self.tokens = Counter(
            "inferbus_gateway_tokens_total",
            "Tokens spent, as engines counted them.",
            ["model", "kind"],
            registry=registry,
        )
        Gauge("inferbus_gateway_open_requests", "Requests open now.", registry=registry).set_function(
            lambda: self.open_requests
        )
        Gauge("inferbus_gateway_open_streams", "Streamed requests open now.", registry=registry).set_function(
            lambda: self.open_streams
        )

    def finished(self, record: RequestRecord) -> None:
        """Write the canonical line, move the metrics, end the span."""
        now = time.monotonic()
        usage = record.usage
        self._count(record, now - record.began)
        if record.span is not None:
            attributes: dict[str, str | int | float | bool] = {
                "http.response.status_code": record.status,
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "inferbus.phase": record.phase,
            }
            end_span(record.span, attributes, record.failure)
        self._log.info(
            "request_finished",
            request_id=record.request_id,
            tenant=record.tenant,
            model=record.model or record.requested_model[:128],
            path=record.path,
            status=record.status,
            streamed=record.streamed,
            phase=record.phase,
            duration_ms=round((now - record.began) * 1000, 2),
            ttft_ms=round((record.first_chunk - record.began) * 1000, 2) if record.first_chunk else None,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            error=record.error or None,
        )

    def _count(self, record: RequestRecord, duration_s: float) -> None:
        model = record.model or UNKNOWN
        series = self._series.get((record.path, model))
        if series is None:
            series = self._series[record.path, model] = _Series(self, record.path, model)
        counter = series.by_status.get(record.status)
        if counter is None:
            counter = series.by_status[record.status] = self.requests.labels(record.path, model, str(record.status))
        counter.inc()
        series.duration.observe(duration_s)
        if record.first_chunk:
            if series.ttft is None:
                series.ttft = self.ttft.labels(record.path, model)
            series.ttft.observe(record.first_chunk - record.began)
        if record.usage.prompt_tokens:
            series.prompt_tokens.inc(record.usage.prompt_tokens)
        if record.usage.completion_tokens:
            series.completion_tokens.inc(record.usage.completion_tokens)
