"""Serving: one delivery from receipt to ack. Decode, ask if it is still wanted, run, finish, be confirmed, ack.

It knows contracts and the engine port; bus subjects are the intake's and the attempts'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from opentelemetry.trace import Span

from inferbus import routes
from inferbus.answers.attempts import Attempt, Attempts
from inferbus.answers.delivered import resume_from
from inferbus.batch.fence import is_behind
from inferbus.bus import Bus
from inferbus.bus.tickets import load_payload, ticket_from
from inferbus.bus.waiting import NoResponders
from inferbus.codec import pack, unpacker
from inferbus.contracts.envelope import RESULTS, Envelope, UnknownVersion, envelope_from
from inferbus.contracts.groups import rows_from
from inferbus.contracts.step import CANCELLED, FRESH, GONE, Answer, Ask, Resume
from inferbus.durable.attempt import DurableAttempt
from inferbus.errors import (
    Cancelled,
    DependencyDown,
    InferbusError,
    InvalidRequest,
    Transient,
)
from inferbus.facts import Facts
from inferbus.queue.delivery import Delivery
from inferbus.telemetry.tracing import Tracing, traceparent_of
from inferbus.worker.billing import Bill, Billing
from inferbus.worker.books import Books
from inferbus.worker.durable_start import answer_without_asker, is_over
from inferbus.worker.engine_sink import EngineSink
from inferbus.worker.exclusion import Exclusion
from inferbus.worker.failing import end_failed, let_go, settle
from inferbus.worker.group_run import GroupRun
from inferbus.worker.metrics import WorkerMetrics
from inferbus.worker.ports import Engine, Work
from inferbus.worker.rows_bill import RowsBill

_ASK_TIMEOUT_S = 1.0
_ASKER_LOST_S = 12.0
_ASK_AGAIN_S = 1.0
_MOST_ENDING_ROWS = 32
_BATCH_PRIORITY = 1000  # entitlements' priorities are -100 to 100: they order work within a lane
log = structlog.get_logger()
_decode_answer = unpacker(Answer).decode


class Serving:
    """Handles the deliveries of one worker."""

    def __init__(
        self,
        bus: Bus,
        attempts: Attempts,
        engine: Engine,
        tracing: Tracing,
        metrics: WorkerMetrics,
        *,
        old_message_s: float,
        facts: Facts | None = None,
        billing: Billing | None = None,
    ) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._attempts = attempts
        self._engine = engine
        self._books = Books(tracing, metrics, facts, engine=engine.name)
        self._billing = billing
        self._metrics = metrics
        self._old_message_s = old_message_s
        self._exclusion = Exclusion()
        self._missed: dict[str, float] = {}
        self._ending_rows = 0

    async def on_delivery(self, delivery: Delivery) -> None:
        """Deal with one delivery completely; what it raises, the intake settles by `verdict_of`."""
        try:
            envelope = envelope_from(delivery.headers)
        except UnknownVersion as exc:
            raise Transient(str(exc), retry_after_s=1.0) from exc
        left_s = envelope.deadline_ms / 1000 - delivery.age_s
        if envelope.delivery == RESULTS and await is_over(self._bus, envelope, delivery, left_s):
            if self._billing is not None:
                await self._billing.recall(self._bus, envelope, delivery)
            await delivery.ack_surely()
            return
        if left_s <= 0:
            self._metrics.expired.inc()
            delivery.ack()  # the asker's own timer has told the client
            return
        expires_at = self._loop.time() + left_s
        answer = Answer("fresh")
        if delivery.attempt > 1 or delivery.age_s > self._old_message_s:
            answer = await self._ask(envelope, delivery)
            if answer.verdict in (GONE, CANCELLED):
                if envelope.delivery == RESULTS:
                    raise Transient("its asker has given it up; the outcome is about to be stored")
                delivery.ack()
                return
        turn = self._exclusion.alone() if answer.solo else self._exclusion.shared()
        async with turn:
            if self._attempts.is_running(envelope, delivery.attempt):
                # A server killed just after it delivered delivers again, under the same number: nobody could tell the
                # frames of the two apart. The first goes on, and its acknowledgement is the message's.
                return
            if envelope.delivery == RESULTS:
                attempt: Attempt = self._attempts.register(DurableAttempt(self._attempts, envelope, delivery))
            else:
                attempt = self._attempts.open(envelope, delivery)
            await self._run(attempt, answer, expires_at)

    async def on_direct(self, attempt: Attempt) -> None:
        """Deal with a request that came directly."""
        expires_at = self._loop.time() + attempt.envelope.deadline_ms / 1000
        self._attempts.register(attempt)
        try:
            async with self._exclusion.shared():
                await self._run(attempt, Answer(FRESH), expires_at)
        finally:
            self._attempts.close(attempt)

    async def _ask(self, envelope: Envelope, delivery: Delivery) -> Answer:
        """Ask the asker whether a redelivered or old message is still wanted, and where to begin.

        Raises:
            Transient: the asker cannot be reached, and it is not yet long enough to take it for dead.
        """
        frame = Ask(envelope.tag_no, delivery.attempt, 0, envelope.request_id)
        try:
            message = await self._bus.request(routes.step_of(envelope.asker), pack([frame]), timeout_s=_ASK_TIMEOUT_S)
        except DependencyDown as exc:
            if envelope.delivery == RESULTS:
                return answer_without_asker(delivery.attempt)
            if not isinstance(exc, NoResponders):
                raise
            if self._is_lost(envelope.asker):
                return Answer(GONE)
            raise Transient("its asker cannot be reached", retry_after_s=_ASK_AGAIN_S) from exc
        self._missed.pop(envelope.asker, None)
        return _decode_answer(message.data)  # type: ignore[no-any-return]  # the decoder is for Answer

    def _is_lost(self, asker: str) -> bool:
        """Whether an asker has been missing for so long that it is dead: one that was only cut off comes back and goes on,
        and until then nothing is computed for it."""
        if self._attempts.has_ended(asker):
            return True
        now = time.monotonic()
        self._missed = {name: since for name, since in self._missed.items() if now - since < 5 * _ASKER_LOST_S}
        return now - self._missed.setdefault(asker, now) > _ASKER_LOST_S

    async def _run(self, attempt: Attempt, answer: Answer, expires_at: float) -> None:
        envelope, delivery = attempt.envelope, attempt.delivery
        subject = routes.parse_infer(delivery.subject)
        entry = self._books.open(envelope, delivery, subject)
        sink = EngineSink(attempt, streamed=envelope.streamed)
        bill = self._billing.open(attempt, sink, subject) if self._billing is not None and not envelope.rows else None
        error: BaseException | None = None
        try:
            error = await self._serve(envelope, subject, delivery, attempt, sink, answer, expires_at, entry.span)
            if error is not None:
                await end_failed(error, attempt, delivery, answer, bill)
            elif isinstance(attempt, DurableAttempt) and attempt.is_row and self._ending_rows < _MOST_ENDING_ROWS:
                await self._end_row(attempt, bill)
            else:
                await attempt.over
                if bill is not None:
                    await bill.settle()
                await let_go(attempt)
        except asyncio.CancelledError as exc:  # the worker is stopping: the intake hands the message back
            error = exc
            # Before the engine's own word for it, which would count as the end.
            attempt.failed("dependency_down", "the worker is stopping", final=False)
            self._engine.abort(attempt.name)
            raise
        except Exception as exc:
            error = exc
            raise
        finally:
            self._attempts.close(attempt)
            await attempt.closed()
            if bill is not None:
                bill.close()
            self._books.close(entry, attempt, sink, error)

    async def _serve(
        self,
        envelope: Envelope,
        subject: routes.InferSubject,
        delivery: Delivery,
        attempt: Attempt,
        sink: EngineSink,
        answer: Answer,
        expires_at: float,
        span: Span | None,
    ) -> BaseException | None:
        """Run it in the engine until it ended there; returns the error it ended with."""
        try:
            resume, created = await self._place(attempt, answer)
            body = delivery.data
            if envelope.ticket:
                body = await load_payload(self._bus, subject.tenant, ticket_from(envelope.ticket))
        except InferbusError as exc:
            return exc
        work = Work(
            key=attempt.name,
            request_id=envelope.request_id,
            path=envelope.path,
            body=body,
            streamed=envelope.streamed,
            created=created,
            priority=_engine_priority(subject.lane, envelope.priority),
            traceparent=traceparent_of(span, envelope.traceparent),
            model=envelope.model,
            resume=resume,
            bound=envelope.bound,
            json_bytes=envelope.json_bytes,
            left_s=max(0.001, expires_at - self._loop.time()),
            tenant=subject.tenant,
            key_id=envelope.key_id,
            team=envelope.team,
            user=envelope.user,
        )
        run: Callable[[Work, EngineSink], Awaitable[None]] = self._engine.submit
        stop: Callable[[], None] = partial(self._engine.abort, work.key)
        if envelope.rows:
            try:
                group = await self._group(attempt, work, subject)
            except InferbusError as exc:
                return exc
            run, stop = group.run, group.stop
        if attempt.over.done():  # cancelled while its body was fetched, or its fence looked at
            return Cancelled("stopped before it began")
        attempt.on_stop = stop
        deadline = self._loop.call_at(expires_at, _expire, sink, stop)
        try:
            sink.begin(resume)
            await run(work, sink)
            return await sink.done
        except InferbusError as exc:
            return exc
        finally:
            deadline.cancel()
            attempt.on_stop = None

    async def _place(self, attempt: Attempt, answer: Answer) -> tuple[Resume | None, int]:
        """Begin an attempt; give what it goes on from, and the time its answer carries."""
        fingerprint = self._engine.fingerprint
        if isinstance(attempt, DurableAttempt):
            place = await attempt.begin(fingerprint)
            attempt.started(place.created, fingerprint)  # the asker has none of it, and waits for the end only
            return place.resume, place.created
        resume = resume_from(answer)
        created = resume.created if resume is not None else int(time.time())
        attempt.started(created, fingerprint, sum(len(ids) for _, ids in resume.ids) if resume is not None else 0)
        return resume, created

    async def _end_row(self, attempt: Attempt, bill: Bill | None) -> None:
        """End a row of a batch. Another has its place in the engine meanwhile, so that this is not empty for the time four
        answers of the bus take; of so many at once at most, or a bus that is slow would have them pile up."""
        self._ending_rows += 1
        try:
            attempt.delivery.free_slot()
            await attempt.over
            await settle(bill)
            await let_go(attempt)
        finally:
            self._ending_rows -= 1

    async def _group(self, attempt: Attempt, work: Work, subject: routes.InferSubject) -> GroupRun:
        """Make the run of a group's rows.

        Raises:
            InvalidRequest: they cannot be read, or nobody would keep what they come to.
            DependencyDown: nobody can tell now whether they are still to be asked.
        """
        if not isinstance(attempt, DurableAttempt):
            raise InvalidRequest("a group's outcome is kept, or it is none")
        rows = rows_from(work.body)
        is_fenced = await is_behind(self._bus, subject.tenant, *routes.fence_of(work.request_id))
        run = GroupRun(self._engine, rows, attempt.delivery, is_fenced=is_fenced)
        attempt.group = RowsBill(self._billing, self._bus, attempt, subject, run)
        return run


def _expire(sink: EngineSink, stop: Callable[[], None]) -> None:
    sink.expired = True
    stop()


def _engine_priority(lane: str, entitled: int) -> int:
    """Give the priority as engines count it: the lowest is served first."""
    return (_BATCH_PRIORITY if lane == routes.BATCH else 0) - entitled
