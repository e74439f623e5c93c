"""Admit: identity -> entitlements -> bounds -> route -> durable accept. The one way work gets onto `infer.*`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import msgspec
import structlog
from opentelemetry.trace import Span, SpanKind

from inferbus import routes
from inferbus.admission.bounds import Bounds
from inferbus.admission.entitlements import check_entitled
from inferbus.admission.identity import Identity
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.reservation import UNLIMITED, Reservation
from inferbus.admission.quota.tokens import BodyEstimator, TokenEstimator, bounded_as_reserved
from inferbus.admission.withdrawals import Withdrawals
from inferbus.answers.asker import Asker
from inferbus.answers.by_ticket import load_answer
from inferbus.answers.exchange import Exchange, Stored
from inferbus.bus import Bus
from inferbus.bus.accepting import Accepting
from inferbus.bus.tickets import INLINE_BYTES, store_payload
from inferbus.contracts.envelope import REPLY, RESULTS, Envelope, headers_of
from inferbus.contracts.models import LLM, ModelEntry
from inferbus.contracts.prices import Price
from inferbus.direct import DEADLINE_S, DirectCall, goes_directly
from inferbus.errors import InferbusError, InvalidRequest, NotFound, Overloaded, TenantOverloaded, TooLarge, Unsupported
from inferbus.models import ModelRegistry
from inferbus.process.presence import PresenceTable
from inferbus.queue.buckets import bucket_for
from inferbus.telemetry.tracing import Tracing, end_span, traceparent_of

_TTL_SLACK_S = 30
_BYTES_PER_TOKEN = 4
_MAX_DEADLINE_S = 86_400.0
log = structlog.get_logger()


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a door wants admitted. `body` is passed on as it arrived; `deadline_s` None means the model's default."""

    model: str
    task: str | None
    path: str
    body: bytes
    content_type: str = "application/json"
    lane: str = routes.INTERACTIVE
    streamed: bool = False
    deadline_s: float | None = None
    request_id: str | None = None
    traceparent: str = ""
    delivery: str = REPLY
    idempotency_key: str = ""
    bound: int = 0
    """A length of the answer that was written into the body, which named none."""
    json_bytes: int = 0
    """The length of the JSON in front of binary tensors; 0: all of the body."""
    rows: int = 0
    """So many rows of a batch are in the body (`contracts.groups`); 0: it is one request."""


class Checked(msgspec.Struct, frozen=True):
    """What is to be asked instead of what a door wanted, of which model, and what it has reserved."""

    ask: Ask
    entry: ModelEntry
    reservation: Reservation


class Admission:
    """Holds what admission needs to know; every fact is a local copy, so only the publish waits for the bus.

    `payload_bus` is the connection for bodies that travel by ticket, so that they delay nothing else. `withdrawals` deals
    with what is given up while it is queued. Without a `quota` nothing is limited.
    """

    def __init__(
        self,
        bus: Bus,
        models: ModelRegistry,
        asker: Asker,
        presence: PresenceTable,
        *,
        payload_bus: Bus | None = None,
        tracing: Tracing | None = None,
        withdrawals: Withdrawals | None = None,
        quota: Quota | None = None,
        estimator: TokenEstimator | None = None,
        price_of: Callable[[str], Price | None] = lambda _: None,
        hold_s: float = 3.0,
    ) -> None:
        self._bus = bus
        self._payload_bus = payload_bus or bus
        self._models = models
        self._asker = asker
        self._presence = presence
        self._tracing = tracing
        self._withdrawals = withdrawals
        self._quota = quota
        self._estimator = estimator or BodyEstimator()
        self._price_of = price_of
        self._hold_s = hold_s
        self.bounds = Bounds()

    async def admit(self, identity: Identity, ask: Ask) -> Exchange:
        """Admit one request and make it durable: when this returns, it survives any process kill.

        Raises:
            NotFound, Unsupported, Forbidden, InvalidRequest, TooLarge: nothing was accepted, and trying again is
                pointless. RateLimited, TenantOverloaded, Overloaded, DependencyDown: nothing was accepted, later it may be.
        """
        checked = await self.check(identity, ask)
        reservation = checked.reservation
        return await self.accept(identity, checked.ask, checked.entry, reservation.close, reservation.head)

    async def begin(self, identity: Identity, ask: Ask) -> Exchange:
        """Admit one request without waiting for the bus to have it: in what `admit` raises where it does not, the exchange
        ends, `refused`. For whoever waits for the end only. Raises as `admit`."""
        checked = await self.check(identity, ask)
        reservation = checked.reservation
        return await self.accept(
            identity, checked.ask, checked.entry, reservation.close, reservation.head, surely=False
        )

    async def check(self, identity: Identity, ask: Ask) -> Checked:
        """Check one request, and reserve what it may cost; `accept` it, or refund the reservation. Raises as `admit`."""
        entry = self._resolve(ask)
        ask = check_entitled(identity, ask, entry)
        self._check(ask, entry)
        quota = self._quota
        if quota is None or not quota.is_limited(identity, entry.name):
            return Checked(ask, entry, UNLIMITED)
        reservation = await self._reserve(quota, identity, ask, entry)
        if implied := reservation.implied_bound:  # what was reserved must be the most it can cost
            ask = msgspec.structs.replace(ask, body=bounded_as_reserved(ask.task, ask.body, implied), bound=implied)
        return Checked(ask, entry, reservation)

    async def accept(
        self,
        identity: Identity,
        ask: Ask,
        entry: ModelEntry,
        close: Callable[[Exchange | None], None],
        head: bytes = b"",
        *,
        surely: bool = True,
    ) -> Exchange:
        """Make what was checked durable. `close` settles what was reserved, by how it ended; or it is refunded, where nothing
        was accepted. `head`: see `Reservation`. Not `surely`: as `begin`. Raises as `admit`."""
        try:
            self.bounds.take(entry.pool, identity.tenant, entry.limits, self._presence.backlog(entry.pool))
        except BaseException:
            close(None)
            raise
        deadline_s = min(ask.deadline_s or entry.limits.deadline_s(ask.lane), _MAX_DEADLINE_S)
        direct = goes_directly(entry, lane=ask.lane, streamed=ask.streamed, delivery=ask.delivery)
        if direct and ask.deadline_s is None:
            deadline_s = min(deadline_s, DEADLINE_S)
        request_id = ask.request_id or secrets.token_hex(16)
        exchange = self._asker.open(
            request_id=request_id, tenant=identity.tenant, pool=entry.pool, deadline_s=deadline_s, lane=ask.lane,
            streamed=ask.streamed,
        )  # fmt: skip
        if ask.delivery == RESULTS:
            exchange.durable = True
        exchange.estimated_tokens = len(ask.body) // _BYTES_PER_TOKEN
        exchange.rate_head = head
        exchange.load = lambda ticket: load_answer(self._payload_bus, identity.tenant, ticket)
        exchange.on_closed(lambda: self._on_closed(exchange, close))
        try:
            await self._publish(identity, ask, entry, exchange, deadline_s, direct=direct, surely=surely)
        except BaseException:
            exchange.cancel()
            raise
        return exchange

    async def _reserve(self, quota: Quota, identity: Identity, ask: Ask, entry: ModelEntry) -> Reservation:
        estimator = self._estimator
        return await quota.reserve(identity, entry.name, lambda: estimator.estimate(ask.task, ask.body, ask.json_bytes))

    def _on_closed(self, exchange: Exchange, close: Callable[[Exchange | None], None]) -> None:
        close(exchange)
        self.bounds.give(exchange.pool, exchange.tenant, drained=exchange.finished)
        if self._withdrawals is not None:
            self._withdrawals.look_at(exchange)

    def _resolve(self, ask: Ask) -> ModelEntry:
        entry = self._models.resolve(ask.model)
        if entry is None:
            raise NotFound(f"The model `{ask.model}` does not exist or you do not have access to it.", param="model")
        return entry

    def _check(self, ask: Ask, entry: ModelEntry) -> None:
        if ask.task is not None and ask.task not in entry.tasks:
            raise Unsupported(f"The model `{entry.name}` does not support {ask.task}.", param="model")
        if len(ask.body) > entry.limits.max_body_bytes:
            raise TooLarge(f"body of {len(ask.body)} bytes, the limit is {entry.limits.max_body_bytes} bytes")
        if ask.deadline_s is not None and ask.deadline_s <= 0:
            raise InvalidRequest("the deadline must be in the future", param="deadline")

    async def _publish(
        self, identity: Identity, ask: Ask, entry: ModelEntry, exchange: Exchange, deadline_s: float, *, direct: bool,
        surely: bool,
    ) -> None:  # fmt: skip
        region, tenant = self._bus.region, identity.tenant
        if direct:
            subject = routes.direct(region=region, runtime=entry.runtime, pool=entry.pool, tenant=tenant)
        else:
            bucket = bucket_for(entry.buckets, tenant)
            subject = routes.infer(
                region=region, runtime=entry.runtime, pool=entry.pool, lane=ask.lane, bucket=bucket, tenant=tenant
            )
        span = self._begin_span(ask, entry, subject)
        ttl_s = int(deadline_s) + _TTL_SLACK_S
        try:
            body, ticket = ask.body, ""
            if len(body) > INLINE_BYTES:
                stored = await store_payload(self._payload_bus, tenant, body, ttl_s=ttl_s)
                body, ticket = b"", stored.to_header()
            envelope = self._envelope(
                identity, ask, entry, exchange, deadline_s, traceparent_of(span, ask.traceparent), ticket
            )
            if direct:
                DirectCall(self._bus, exchange, subject, body, envelope, self._asker.stop_direct).begin()
                end_span(span, {})
                return
            headers = headers_of(envelope)
            msg_id = _msg_id(tenant, exchange, self._asker.id)
            hold_s = min(self._hold_s, deadline_s)
            told = partial(self._on_accepted, exchange, routes.stream_infer(region, entry.runtime, ask.lane), span)
            if surely:
                told(await self._bus.accept(subject, body, headers, msg_id=msg_id, ttl_s=ttl_s, hold_s=hold_s))
            else:
                Accepting(self._bus, subject, body, headers, told, msg_id=msg_id, ttl_s=ttl_s, hold_s=hold_s).begin()
                exchange.handed_in = True
        except BaseException as error:
            self._on_refused(exchange, span, error)
            raise

    def _envelope(
        self, identity: Identity, ask: Ask, entry: ModelEntry, exchange: Exchange, deadline_s: float, traceparent: str,
        ticket: str,
    ) -> Envelope:  # fmt: skip
        return Envelope(
            request_id=exchange.request_id,
            tag_no=exchange.tag,
            asker=self._asker.id,
            path=ask.path,
            deadline_ms=int(deadline_s * 1000),
            streamed=ask.streamed,
            content_type=ask.content_type,
            key_id=identity.key_id,
            traceparent=traceparent,
            ticket=ticket,
            delivery=ask.delivery,
            idempotency_key=ask.idempotency_key,
            model=_named(ask, entry),
            price_version=self._price_version(entry.name),
            team=identity.team,
            user=identity.user,
            priority=identity.priority,
            bound=ask.bound,
            json_bytes=ask.json_bytes,
            rows=ask.rows,
        )

    def _on_accepted(self, exchange: Exchange, stream: str, span: Span | None, result: int | InferbusError) -> None:
        """The bus has stored a request, or said why not, whatever became of it meanwhile."""
        if not isinstance(result, InferbusError):
            end_span(span, {})
            exchange.accepted(Stored(stream, result))
            if exchange.closed and self._withdrawals is not None:  # cancelled while it was being accepted
                self._withdrawals.look_at(exchange)
        elif exchange.started or exchange.finished:  # it was stored: a worker has it, only the bus's word is lost
            end_span(span, {})
        else:
            self._on_refused(exchange, span, result)
            exchange.refuse(result)

    def _on_refused(self, exchange: Exchange, span: Span | None, error: BaseException) -> None:
        end_span(span, {}, error)
        if isinstance(error, Overloaded | TenantOverloaded):  # the stream's own bound: the same hint as for ours
            error.retry_after_s = self.bounds.retry_after_s(exchange.pool, exchange.tenant)

    def _price_version(self, model: str) -> str:
        """Name the price of today: whatever is set while the request runs, it is charged at this one."""
        price = self._price_of(model)
        return price.version if price is not None else ""

    def _begin_span(self, ask: Ask, entry: ModelEntry, subject: str) -> Span | None:
        """Begin the span of the durable accept, which the worker's span is a child of."""
        if self._tracing is None or not self._tracing.enabled or not ask.traceparent:
            return None
        attributes: dict[str, str | int] = {
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.destination.name": subject,
            "messaging.message.body.size": len(ask.body),
        }
        return self._tracing.begin(f"publish {entry.pool}", ask.traceparent, SpanKind.PRODUCER, attributes)


def _named(ask: Ask, entry: ModelEntry) -> str:
    """Name the model for the worker, where the body does not, or not by the name that counts. A pool that is not an LLM's
    may serve several."""
    return entry.name if ask.model != entry.name or entry.runtime != LLM else ""


def _msg_id(tenant: str, exchange: Exchange, asker: str) -> str:
    """Name the message for the server, which stores one of a name within two minutes. A durable request is the same one
    whichever gateway publishes it; any other is this exchange's own, whatever id its client gave it."""
    if exchange.durable:
        return f"{tenant}:{exchange.request_id}:{RESULTS}"
    return f"{tenant}:{exchange.request_id}:{exchange.tag}:{asker}"
