"""UsageLog: writes the ledger's events, each request's once, whatever is delivered again (docs/adr/0013-ledger.md).

An event is sent before the end of its request is, on the same connection: an end that anybody has heard of has an event.
That it is stored is awaited where nobody waits any more, before the request's message is acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.usage import AMENDED, UsageEvent
from inferbus.errors import DependencyDown, InferbusError
from inferbus.pub_ack import PubAck, ack_of
from inferbus.stored import read_one

_MSG_ID = "Nats-Msg-Id"
_ANSWER_S = 2.0
_AGAIN_S = 0.25
HOLD_S = 60.0
"""How long the acknowledgement of a request waits for its event to be stored, in seconds."""
log = structlog.get_logger()


class Record:
    """One event on its way. `name` is the request's, the same whoever writes it."""

    __slots__ = ("answer", "event", "name", "token")

    def __init__(self, name: str, event: UsageEvent, token: str, answer: asyncio.Future[Msg]) -> None:
        self.name = name
        self.event = event
        self.token = token
        self.answer = answer


class UsageLog:
    """Writes events for one process. `stop` it after what settles records."""

    def __init__(self, bus: Bus, registry: CollectorRegistry, *, hold_s: float = HOLD_S) -> None:
        self._bus = bus
        self._hold_s = hold_s
        self._tokens = itertools.count()
        self._open: dict[str, Record] = {}
        self._inbox = ""
        self._written = Counter("inferbus_usage_events_total", "Events of usage stored", registry=registry)
        self._again = Counter("inferbus_usage_again_total", "Events that were stored already", registry=registry)
        self._lost = Counter("inferbus_usage_lost_total", "Events that could not be stored", registry=registry)

    async def start(self) -> None:
        self._inbox = self._bus.nc.new_inbox()
        await self._bus.listen(f"{self._inbox}.*", self._on_answer)
        self._bus.on_disconnect(self._on_disconnect)

    def begin(self, name: str, event: UsageEvent) -> Record:
        """Send an event now, before whatever is sent after it. `settle` or `forget` the record."""
        token = str(next(self._tokens))
        record = Record(name, event, token, asyncio.get_running_loop().create_future())
        self._open[token] = record
        headers = f"NATS/1.0\r\n{_MSG_ID}: {name}\r\n\r\n".encode()
        subject = routes.usage(event.tenant, event.pool)
        try:
            self._bus.nc.send_named(subject, to_json(event), f"{self._inbox}.{token}", headers)
        except nats.errors.Error as exc:  # it is sent again by `settle`
            record.answer.set_exception(DependencyDown(f"the bus takes nothing now: {exc!r}"))
        return record

    def forget(self, record: Record) -> None:
        """Wait for this one no more: it is stored, or another attempt writes the request's."""
        self._open.pop(record.token, None)
        if record.answer.done() and not record.answer.cancelled():
            record.answer.exception()  # seen, so that nobody complains of it

    async def settle(self, record: Record, *, amend: bool) -> None:
        """Wait until the event is stored. If one of the request was, and `amend`, store how this one differs from it.

        Where it cannot be stored in time it is written to the log, whole, and counted.
        """
        try:
            ack = await self._stored(record)
            if ack.duplicate:
                self._again.inc()
                if amend:
                    await self._amend(record, ack.seq)
            else:
                self._written.inc()
        except InferbusError as exc:
            self._lost.inc()
            event = msgspec.to_builtins(record.event)
            log.error("usage_not_stored", code=exc.code, error=exc.message, name=record.name, usage=event)
        finally:
            self.forget(record)

    async def _stored(self, record: Record) -> PubAck:
        try:
            if record.answer.done():  # as a rule: the asker's word takes longer than the stream's
                return ack_of(record.answer.result().data)
            async with asyncio.timeout(_ANSWER_S):
                return ack_of((await asyncio.shield(record.answer)).data)
        except (TimeoutError, InferbusError):
            return await self._accept(record.event, record.name)

    async def _accept(self, event: UsageEvent, name: str) -> PubAck:
        """Store an event, however long the bus is away or full, up to the bound."""
        subject, data, give_up = routes.usage(event.tenant, event.pool), to_json(event), time.monotonic() + self._hold_s
        while True:
            try:
                await self._bus.wait_connected(max(0.01, give_up - time.monotonic()))
                return ack_of((await self._bus.request(subject, data, {_MSG_ID: name}, timeout_s=_ANSWER_S)).data)
            except InferbusError:
                if time.monotonic() + _AGAIN_S >= give_up:
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _amend(self, record: Record, seq: int) -> None:
        """An earlier attempt's event stands: add what is missing from it, so that the sum is this one's."""
        first = await self._read(seq)
        recorded = first.figures
        for n in itertools.count(1):
            missing = record.event.figures - recorded
            if not missing:
                return
            figures = msgspec.structs.asdict(missing)
            event = msgspec.structs.replace(record.event, outcome=AMENDED, at=first.at, **figures)
            ack = await self._accept(event, f"{record.name}:{n}")
            if not ack.duplicate:
                log.info("usage_amended", name=record.name, request_id=event.request_id, **figures)
                return
            recorded += (await self._read(ack.seq)).figures

    async def _read(self, seq: int) -> UsageEvent:
        stored = await read_one(self._bus, routes.STREAM_USAGE, seq)
        return msgspec.json.decode(stored.data, type=UsageEvent)

    def _on_answer(self, message: Msg) -> None:
        record = self._open.get(message.subject.rsplit(".", 1)[1])
        if record is None or record.answer.done():
            return
        if message.headers is not None and message.headers.get("Status") == "503":
            record.answer.set_exception(DependencyDown("no stream takes events of usage"))
        else:
            record.answer.set_result(message)

    def _on_disconnect(self) -> None:
        for record in self._open.values():
            if not record.answer.done():
                record.answer.set_exception(DependencyDown("the bus connection was lost"))
