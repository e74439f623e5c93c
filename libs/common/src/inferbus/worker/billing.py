"""Billing: one event of usage per request, from what the engine says it took. When it is written is `serving`'s,
how it is written once `inferbus.ledger.usage_log`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from inferbus.answers.attempts import ASKER_GONE, Attempt
from inferbus.bus import Bus
from inferbus.bus.stored import last_stored
from inferbus.contracts.control import CANCEL, CONFIRM, DROP, EXPIRE, STALE
from inferbus.contracts.durable import Outcome, outcome_from
from inferbus.contracts.envelope import Envelope
from inferbus.contracts.facts import QUEUED
from inferbus.contracts.groups import ABORTED, ANSWERED, ROWS_TYPE, RowAnswer, answers_from
from inferbus.contracts.prices import cost
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import ABANDONED, CANCELLED, CHARGED, DEADLINE, FINISHED, REJECTED, UsageEvent
from inferbus.durable.outcomes import whole_outcome
from inferbus.errors import Cancelled
from inferbus.ledger.names import group_name, usage_name
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import Record, UsageLog
from inferbus.queue.delivery import Delivery
from inferbus.routes import BATCH, STREAM_RESULTS, InferSubject, parse_infer, results
from inferbus.topology.configs import USAGE_WINDOW_S
from inferbus.worker.engine_sink import EngineSink, unheard
from inferbus.worker.tasks import task_of

_WINDOW_SLACK_S = 60.0
_LAST_WORD = (CONFIRM, CANCEL, EXPIRE)
"""Ways an attempt is over that make what it says of the request right. Not `drop`: the request had ended without it, and
where another attempt's answer was read, that one's figures stand."""


class Billing:
    """Makes the bills of one worker. `model` is what its pool serves where the request names no other."""

    def __init__(self, log: UsageLog, prices: PriceBook, *, model: str, version: str = "") -> None:
        self.log = log
        self._prices = prices
        self._model = model
        self._version = version

    def open(self, attempt: Attempt, sink: EngineSink, subject: InferSubject) -> Bill:
        bill = Bill(self, attempt, sink, subject)
        sink.on_finished = bill.finished
        return bill

    def event(
        self, envelope: Envelope, delivery: Delivery, subject: InferSubject, *, outcome: str, usage: Usage,
        engine_s: float, waited_s: float = 0.0, request_id: str = "",
    ) -> UsageEvent:  # fmt: skip
        """Make the event of a request, or of one of a group's rows: `request_id` is the row's. Times count from its receipt;
        it was with the engine for `engine_s` after it had waited here for `waited_s`."""
        model = envelope.model or self._model
        price = self._prices.price_of(model, envelope.price_version)
        charged = outcome in CHARGED
        counted = usage if charged else Usage()
        return UsageEvent(
            request_id=request_id or envelope.request_id,
            tenant=subject.tenant,
            key_id=envelope.key_id,
            team=envelope.team,
            user=envelope.user,
            model=model,
            pool=subject.pool,
            version=self._version,
            task=task_of(envelope.path),
            lane=subject.lane,
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            cached_tokens=counted.cached_tokens,
            queue_s=round(delivery.age_s + waited_s, 6),
            engine_s=round(engine_s, 6),
            cost=cost(price, counted) if price is not None else 0,
            price_version=price.version if price is not None else "",
            outcome=outcome,
            trace_id=_trace_of(envelope.traceparent),
            at=round(delivery.stored_s + delivery.age_s + waited_s + engine_s, 3),
            wasted_tokens=0 if charged else usage.prompt_tokens + usage.completion_tokens,
        )

    async def recall(self, bus: Bus, envelope: Envelope, delivery: Delivery) -> None:
        """A durable request is delivered again after its outcome was stored: see that its event is.

        Only while the stream would know the event again: later it would be a second one.

        Raises:
            DependencyDown: the bus is away; the message comes back.
        """
        if delivery.attempt == 1 or delivery.age_s > USAGE_WINDOW_S - _WINDOW_SLACK_S:
            return
        subject = parse_infer(delivery.subject)
        stored = await last_stored(bus, STREAM_RESULTS, results(subject.tenant, envelope.request_id))
        if stored is None:
            return
        kept = outcome_from(stored.headers, stored.data)
        if kept.content_type == ROWS_TYPE:
            answers = answers_from((await whole_outcome(bus, subject.tenant, kept)).body)
            record = self.begin_rows(envelope, delivery, subject, answers)
            if record is not None:
                await self.log.settle(record, amend=False)
            return
        event = self.event(
            envelope, delivery, subject, outcome=_of_kept(kept), usage=kept.usage, engine_s=0.0
        )  # fmt: skip
        await self.log.settle(self.log.begin(_name_of(envelope), event), amend=False)

    def begin_rows(
        self,
        envelope: Envelope,
        delivery: Delivery,
        subject: InferSubject,
        answers: Iterable[RowAnswer],
        *,
        aborted: str = CANCELLED,
    ) -> Record | None:
        """Send what a group's rows took: an event each, in one message of the group's name; None where there is nothing to
        say. `aborted` is the outcome of those that were. `settle` the record."""
        events = [
            self.event(
                envelope, delivery, subject, outcome=_of_answer(answer, aborted), usage=answer.usage,
                engine_s=answer.engine_s, waited_s=answer.waited_s, request_id=answer.request_id,
            )
            for answer in answers
            if answer.how in (ANSWERED, ABORTED)
        ]  # fmt: skip
        if not events:
            return None
        return self.log.begin(group_name(envelope.request_id), events, of=_name_of(envelope), soon=True)


class Bill:
    """What one attempt has to say of its request. `close` it when the attempt is closed."""

    def __init__(self, billing: Billing, attempt: Attempt, sink: EngineSink, subject: InferSubject) -> None:
        self._billing = billing
        self._attempt = attempt
        self._sink = sink
        self._subject = subject
        self._begun = time.monotonic()
        self._record: Record | None = None

    def finished(self, status: int, usage: Usage) -> None:
        """The engine has ended it: the event leaves before the end does."""
        if self._attempt.over.done():  # stopped before: `settle` knows what by
            return
        outcome = self._attempt.failure or (REJECTED if status >= 400 else FINISHED)
        self._send(outcome, usage)

    async def settle(self, error: BaseException | None = None) -> None:
        """Wait until the request's event is stored. Nothing is written where another attempt will, or has."""
        over = self._attempt.over.result() if self._attempt.over.done() else ""
        if over == STALE:
            return
        if self._record is None:
            outcome, usage = self._outcome(over, error), self._usage()
            if over == DROP and self._sink.spent().phase == QUEUED:
                return  # its gateway took it back before anything was done for it
            self._send(outcome, usage)
        if self._record is not None and not self._billing.log.is_stored(self._record):
            amend = over in _LAST_WORD or self._attempt.has_outcome or not over
            if self._billing.log.is_slow(self._record):
                self._attempt.delivery.free_slot()  # the engine has room for another meanwhile
            await self._billing.log.settle(self._record, amend=amend)

    def close(self) -> None:
        self._sink.on_finished = unheard  # the sink and this know each other: not for the garbage collector
        if self._record is not None:
            self._billing.log.forget(self._record)

    def _send(self, outcome: str, usage: Usage) -> None:
        attempt = self._attempt
        envelope = attempt.envelope
        event = self._billing.event(
            envelope, attempt.delivery, self._subject, outcome=outcome, usage=usage,
            engine_s=time.monotonic() - self._begun,
        )  # fmt: skip
        soon = self._subject.lane == BATCH
        self._record = self._billing.log.begin(_name_of(envelope), event, soon=soon)

    def _usage(self) -> Usage:
        return self._sink.usage if self._sink.status else self._sink.spent().usage

    def _outcome(self, over: str, error: BaseException | None) -> str:
        if over in (CANCEL, DROP):
            return CANCELLED
        if over == EXPIRE or (not over and self._sink.expired):
            return DEADLINE
        if over == ASKER_GONE and not self._attempt.has_outcome:
            return ABANDONED
        if error is None:
            return self._attempt.failure or FINISHED
        return getattr(error, "code", "internal")


def _name_of(envelope: Envelope) -> str:
    """Name a request, or a group, for the stream, whoever works on it."""
    return usage_name(envelope.asker, envelope.tag_no)


def _of_kept(kept: Outcome) -> str:
    if kept.failure is None:
        return REJECTED if kept.status >= 400 else FINISHED
    code = kept.failure.code
    return CANCELLED if code == Cancelled.code else DEADLINE if code.startswith(DEADLINE) else code


def _of_answer(answer: RowAnswer, aborted: str) -> str:
    if answer.how == ABORTED:
        return aborted
    return REJECTED if answer.status >= 400 else FINISHED


def _trace_of(traceparent: str) -> str:
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 else ""
