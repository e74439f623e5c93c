"""Books: what is written down about every attempt. One canonical line, the metrics, the span's end and, where nobody waits
for the answer any more, the fact of it: all from the same figures.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from opentelemetry.trace import Span, SpanKind

from inferbus.answers.attempts import Attempt
from inferbus.contracts.control import CANCEL, CONFIRM, EXPIRE
from inferbus.contracts.envelope import Envelope
from inferbus.contracts.facts import CANCELLED, DEADLINE, RequestCancelled
from inferbus.facts import Facts
from inferbus.queue.delivery import Delivery
from inferbus.routes import InferSubject
from inferbus.telemetry.tracing import Tracing, end_span
from inferbus.worker.engine_sink import EngineSink, Spent
from inferbus.worker.metrics import WorkerMetrics

_NO_ROWS: dict[str, int] = {}


class Entry:
    """One attempt in the books."""

    __slots__ = ("begun", "delivery", "envelope", "span", "subject")

    def __init__(self, envelope: Envelope, delivery: Delivery, subject: InferSubject, span: Span | None) -> None:
        self.envelope = envelope
        self.delivery = delivery
        self.subject = subject
        self.span = span
        self.begun = time.monotonic()


class Books:
    """Keeps the books of one worker. Make it after logging is configured."""

    def __init__(self, tracing: Tracing, metrics: WorkerMetrics, facts: Facts | None, *, engine: str) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._facts = facts
        self._engine = engine
        self._log = structlog.get_logger().bind()  # not the lazy one, for the line of every request

    def open(self, envelope: Envelope, delivery: Delivery, subject: InferSubject) -> Entry:
        """Begin an entry, and the attempt's span if it is traced."""
        return Entry(envelope, delivery, subject, self._begin_span(envelope, delivery, subject))

    def close(self, entry: Entry, attempt: Attempt, sink: EngineSink, error: BaseException | None) -> None:
        """Write down how an attempt ended; `error` is what ended it."""
        outcome = _outcome(attempt, sink, error)
        phase, usage = None, sink.usage
        if outcome in (CANCELLED, DEADLINE):
            spent = sink.spent()
            phase, usage = spent.phase, spent.usage
            self._tell(entry, outcome, spent)
        duration_s = time.monotonic() - entry.begun
        rows = entry.envelope.rows
        self._metrics.observe(outcome, usage, duration_s, entry.delivery.age_s, count=rows or 1)
        if entry.span is not None:
            attributes: dict[str, str | int | float | bool] = {
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "http.response.status_code": sink.status,
                "inferbus.outcome": outcome,
            }
            ttft_s = {"inferbus.ttft_s": sink.first_delta - entry.begun} if sink.first_delta else {}
            end_span(entry.span, attributes | ttft_s, error)
        self._log.info(
            "work_finished",
            request_id=entry.envelope.request_id,
            tenant=entry.subject.tenant,
            pool=entry.subject.pool,
            lane=entry.subject.lane,
            attempt=entry.delivery.attempt,
            outcome=outcome,
            phase=phase,
            status=sink.status,
            queue_ms=round(entry.delivery.age_s * 1000, 1),
            duration_ms=round(duration_s * 1000, 1),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            **({"rows": rows} if rows else _NO_ROWS),
        )

    def _tell(self, entry: Entry, reason: str, spent: Spent) -> None:
        if self._facts is None:
            return
        envelope, subject = entry.envelope, entry.subject
        event = RequestCancelled(
            request_id=envelope.request_id,
            tenant=subject.tenant,
            pool=subject.pool,
            reason=reason,
            phase=spent.phase,
            attempt=entry.delivery.attempt,
            streamed=envelope.streamed,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
        )
        self._facts.cancelled(event, asker=envelope.asker, tag=envelope.tag_no)

    def _begin_span(self, envelope: Envelope, delivery: Delivery, subject: InferSubject) -> Span | None:
        if not envelope.traceparent:
            return None
        return self._tracing.begin(
            f"process {subject.pool}",
            envelope.traceparent,
            SpanKind.CONSUMER,
            {
                "messaging.system": "nats",
                "messaging.operation.type": "process",
                "messaging.destination.name": delivery.subject,
                "messaging.message.id": envelope.request_id,
                "messaging.message.body.size": len(delivery.data),
                "inferbus.attempt": delivery.attempt,
                "inferbus.queue_s": delivery.age_s,
                "inferbus.engine": self._engine,
                "gen_ai.request.model": subject.pool,
            },
        )


def _outcome(attempt: Attempt, sink: EngineSink, error: BaseException | None) -> str:
    """Name how an attempt ended. `stopped`: somebody else goes on with the request, or nobody is there to ask.
    `handed_over`: this worker drains, and could not finish it in time."""
    over = attempt.over.result() if attempt.over.done() else ""
    if over == CANCEL:
        return CANCELLED
    if over == EXPIRE or (not over and sink.expired):
        return DEADLINE
    if over not in ("", CONFIRM) and not attempt.has_outcome:
        return "stopped"
    if isinstance(error, asyncio.CancelledError):
        return "handed_over"
    return "finished" if error is None else getattr(error, "code", "internal")
