"""The bus door: `request.<tenant>.<model>.<lane>` in, `reply.<tenant>.<client>` out. Translation, nothing else.

A producer's message is acknowledged after the last part of its answer was relayed; should this gateway die before, the
next one publishes the work anew as `<id>.<delivery>` and the orphaned attempt is dropped (DESIGN.md 2b).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog
from opentelemetry.trace import SpanKind

from inferbus import routes
from inferbus.admission.admit import Admission, Ask
from inferbus.admission.identity import Identity
from inferbus.answers.exchange import Begun, Chunk, Ended, Exchange
from inferbus.bus import Bus
from inferbus.contracts import door
from inferbus.contracts.envelope import REPLY, RESULTS
from inferbus.contracts.step import Usage
from inferbus.errors import (
    Cancelled,
    DeadlineWhileQueued,
    InferbusError,
    InvalidRequest,
    Permanent,
    RateLimited,
)
from inferbus.queue.delivery import Delivery
from inferbus.queue.intake import Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus.telemetry.tracing import Tracing, traceparent_of
from inferbus.worker.tasks import INFER
from inferbus_gateway.door_request import read_request
from inferbus_gateway.fetch_door import relay_kept
from inferbus_gateway.observer import DECODE, DONE, PREFILL, QUEUED, Observer, RequestRecord
from inferbus_gateway.ports import DurableStore
from inferbus_gateway.reply_writer import ReplyWriter, reply_subject

_MAX_RETRIES = 50
"""How often a request that was refused for now (pool full, bus away) comes back before it is a dead letter."""
_LONGEST_WAIT_S = 60.0
"""A request over a minute's limit waits in its queue; one over a day's is answered."""
_PATIENCE_S = 0.5
_MAX_CANCELLED = 4096
_INFER_LABEL = "/v2/models/{model}/infer"  # one path for all models: labels stay few
_DEFAULT_PATH = "/v1/chat/completions"
_ACCEPTED = 202
log = structlog.get_logger()


def _tenant_alone(tenant: str) -> Identity:
    return Identity(tenant=tenant)


class BusDoor:
    """Pulls producers' requests of both lanes and relays the answers."""

    def __init__(
        self,
        bus: Bus,
        admission: Admission,
        observer: Observer,
        tracing: Tracing,
        durable: DurableStore,
        *,
        max_open: int,
        identify: Callable[[str], Identity] = _tenant_alone,
    ) -> None:
        """`identify` says what a tenant's producers may do (`KeyRing.of_tenant`)."""
        self._bus = bus
        self._identify = identify
        self._admission = admission
        self._observer = observer
        self._tracing = tracing
        self._durable = durable
        slots = Slots(max_open)
        self._intakes = [
            Intake(
                bus,
                IntakeSettings(
                    stream=routes.STREAM_REQUEST,
                    consumer=routes.durable_door(lane),
                    lane=lane,
                    max_retries=_MAX_RETRIES,
                ),
                slots,
                self._on_delivery,
            )
            for lane in routes.LANES
        ]
        self._open: dict[tuple[str, str], Exchange] = {}
        self._cancelled: dict[tuple[str, str], float] = {}

    async def start(self) -> None:
        for intake in self._intakes:
            await intake.start()

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, let open answers finish for `grace_s`, hand the rest back to the queue."""
        await asyncio.gather(*(intake.drain(grace_s) for intake in self._intakes))
        for intake in self._intakes:
            await intake.stop()

    @property
    def in_flight(self) -> int:
        return sum(intake.running for intake in self._intakes)

    def find(self, tenant: str, request_id: str) -> Exchange | None:
        """Find an open request by the id its producer gave it; after a lost gateway it goes under another."""
        return self._open.get((tenant, request_id))

    def remember_cancel(self, tenant: str, request_id: str) -> None:
        """Nobody has this request: it may still wait at the door, for whichever gateway takes it."""
        self._cancelled.pop((tenant, request_id), None)
        self._cancelled[tenant, request_id] = time.monotonic()
        if len(self._cancelled) > _MAX_CANCELLED:
            del self._cancelled[next(iter(self._cancelled))]

    def _was_cancelled(self, tenant: str, request_id: str, delivery: Delivery) -> bool:
        """Whether it was cancelled after it was stored: an id may be used again."""
        cancelled = self._cancelled.get((tenant, request_id))
        return cancelled is not None and time.monotonic() - cancelled < delivery.age_s

    async def _on_delivery(self, delivery: Delivery) -> None:
        subject = routes.parse_request(delivery.subject)
        is_kept = _is_durable(delivery)
        wanted = not is_kept or door.REPLY_TO in delivery.headers
        writer = ReplyWriter(self._bus, reply_subject(subject.tenant, delivery.headers) if wanted else "")
        request_id = _request_id(delivery)
        record = RequestRecord(delivery.headers.get(door.PATH, _DEFAULT_PATH), request_id)
        record.tenant = subject.tenant
        try:
            ask = self._translate(delivery, subject, request_id, record)
            await self._serve(delivery, subject.tenant, request_id, ask, writer, record)
        except Permanent as error:
            _note(record, error)
            await writer.error(error)
            if is_kept:
                await self._durable.refuse(subject.tenant, request_id, error)
            raise  # the intake copies it to the dead letters
        except RateLimited as error:
            _note(record, error)
            await self._hold_back(delivery, subject.tenant, request_id, writer, error)
        except InferbusError as error:  # not accepted now: it waits in the queue, but not for ever
            _note(record, error)
            if delivery.attempt >= _MAX_RETRIES:
                await writer.error(error)
            raise
        finally:
            self._observer.finished(record)

    async def _hold_back(
        self, delivery: Delivery, tenant: str, request_id: str, writer: ReplyWriter, error: RateLimited
    ) -> None:
        """Let what is over a limit wait in its queue, as long as it likes: that is how a producer is throttled. What would
        wait for hours, or for ever, is answered."""
        if error.hopeless or error.retry_after_s > _LONGEST_WAIT_S:
            await writer.error(error)
            if _is_durable(delivery):
                await self._durable.refuse(tenant, request_id, error)
            delivery.ack()
        else:  # the longer it has waited, the less often it asks
            delivery.nak(max(error.retry_after_s, min(_LONGEST_WAIT_S / 2, delivery.attempt * _PATIENCE_S)))

    def _translate(
        self, delivery: Delivery, subject: routes.RequestSubject, request_id: str, record: RequestRecord
    ) -> Ask:
        path = record.path
        wanted = read_request(path, delivery.headers, delivery.data)
        if routes.token_safe(wanted.model) != subject.model:
            raise InvalidRequest(f"the subject names {subject.model}, the request {wanted.model}", param="model")
        if wanted.task == INFER:
            record.path = _INFER_LABEL
        record.requested_model, record.streamed, record.phase = wanted.model, wanted.streamed, QUEUED
        traceparent = delivery.headers.get("traceparent", "")
        record.span = self._tracing.begin(
            f"{wanted.task} {subject.model}",
            traceparent,
            SpanKind.CONSUMER,
            {
                "messaging.system": "nats",
                "messaging.destination.name": delivery.subject,
                "inferbus.request_id": request_id,
            },
            root=True,
        )
        durable = _is_durable(delivery)
        return Ask(
            model=wanted.model,
            task=wanted.task,
            path=path,
            body=delivery.data,
            lane=subject.lane,
            streamed=wanted.streamed,
            deadline_s=_deadline_s(delivery),
            request_id=request_id if durable or delivery.attempt == 1 else f"{request_id}.{delivery.attempt}",
            traceparent=traceparent_of(record.span, traceparent),
            delivery=RESULTS if durable else REPLY,
            idempotency_key=delivery.headers.get(door.IDEMPOTENCY_KEY, ""),
            json_bytes=wanted.json_bytes,
        )

    async def _serve(
        self,
        delivery: Delivery,
        tenant: str,
        request_id: str,
        ask: Ask,
        writer: ReplyWriter,
        record: RequestRecord,
    ) -> None:
        if ask.deadline_s is not None and ask.deadline_s <= 0:
            late = DeadlineWhileQueued("the deadline passed in the queue")
            if ask.delivery == RESULTS:
                await self._durable.refuse(tenant, request_id, late)
            await self._over(delivery, writer, record, late)
            return
        if self._was_cancelled(tenant, request_id, delivery):
            await self._over(delivery, writer, record, Cancelled("the request was cancelled"))
            return
        if ask.delivery == RESULTS:
            await self._serve_durable(delivery, tenant, ask, writer, record)
            return
        exchange = await self._admission.admit(self._identify(tenant), ask)
        writer.rate_headers = exchange.rate_headers
        self._open[tenant, request_id] = exchange
        try:
            await _relay(exchange, writer, record)
            delivery.ack()
        except InferbusError as error:  # an end by the platform is an answer too
            record.usage = Usage(0, exchange.delivered_tokens)
            await self._over(delivery, writer, record, error)
        finally:
            if self._open.get((tenant, request_id)) is exchange:  # a producer may use an id twice
                del self._open[tenant, request_id]
            exchange.close()

    async def _serve_durable(
        self, delivery: Delivery, tenant: str, ask: Ask, writer: ReplyWriter, record: RequestRecord
    ) -> None:
        """Begin or join a durable request: it is the work stream's from then on, and its answer is kept."""
        opened = await self._durable.open(self._identify(tenant), ask)
        record.request_id = opened.record.request_id
        writer.rate_headers = opened.rate_headers
        await delivery.ack_surely()
        if not writer.wanted:
            record.status = _ACCEPTED
            return
        try:
            end = await relay_kept(self._durable, tenant, record.request_id, writer, None)
        except InferbusError as error:
            _note(record, error)
            await writer.error(error)
        else:
            record.status, record.usage, record.phase = end.status, end.usage, DONE

    async def _over(self, delivery: Delivery, writer: ReplyWriter, record: RequestRecord, error: InferbusError) -> None:
        _note(record, error)
        await writer.error(error)
        delivery.ack()


async def _relay(exchange: Exchange, writer: ReplyWriter, record: RequestRecord) -> None:
    while True:
        event = await exchange.next()
        match event:
            case Begun():
                record.phase = PREFILL
            case Chunk(data):
                record.phase = DECODE
                record.first_chunk = record.first_chunk or time.monotonic()
                await writer.events(data)
            case Ended(status, usage, data, content_type):
                record.status, record.usage, record.phase = status, usage, DONE
                await writer.whole(status, data, content_type)
                return
            case None:
                continue


def _is_durable(delivery: Delivery) -> bool:
    return delivery.headers.get(door.DELIVERY) == RESULTS or door.IDEMPOTENCY_KEY in delivery.headers


def _request_id(delivery: Delivery) -> str:
    given = delivery.headers.get(door.REQUEST_ID, "")
    return given if routes.is_request_id(given) else secrets.token_hex(16)


def _deadline_s(delivery: Delivery) -> float | None:
    """Give what is left of the producer's deadline, counted from the stream's timestamp."""
    value = delivery.headers.get(door.DEADLINE_MS, "")
    if not value:
        return None
    if not value.isdigit() or int(value) == 0:
        raise InvalidRequest(f"{door.DEADLINE_MS} is a positive number of milliseconds", param=door.DEADLINE_MS)
    return int(value) / 1000 - delivery.age_s


def _note(record: RequestRecord, error: InferbusError) -> None:
    record.error, record.status = error.code, error.row.http_status
    record.failure = None if isinstance(error, Cancelled) else error
