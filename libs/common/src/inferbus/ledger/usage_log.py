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
from inferbus.bus.pub_ack import PubAck, ack_of
from inferbus.bus.stored import read_one
from inferbus.codec import to_json
from inferbus.contracts.usage import AMENDED, UsageEvent
from inferbus.errors import DependencyDown, InferbusError, Overloaded
from inferbus.ledger.names import OF

_MSG_ID = "Nats-Msg-Id"
_ANSWER_S = 2.0
_AGAIN_S = 0.25
_MANY = 4096
_TOKENS = 256
HOLD_S = 60.0
"""How long the acknowledgement of a request waits for its event while the bus is away, in seconds."""
FULL_S = 2.0
"""The same where there is no room for it: the acknowledgement may be what makes some."""
_LATER_S = 480.0  # with `HOLD_S` less than the stream knows a name for: a retry must not be a second event
_MOST_LATER = 10_000
log = structlog.get_logger()


Events = UsageEvent | list[UsageEvent]
"""A request's, or those of a group's rows, which are one message."""


class Record:
    """One message on its way. `name` is the request's or the group's, the same whoever writes it; `answer` the stream's, once
    there is one."""

    __slots__ = ("_waiter", "answer", "event", "name", "of", "token")

    def __init__(self, name: str, event: Events, token: str, of: str = "") -> None:
        self.name = name
        self.of = of
        self.event = event
        self.token = token
        self.answer: PubAck | InferbusError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def answered(self, answer: PubAck | InferbusError) -> None:
        """Hear the first answer."""
        if self.answer is None:
            self.answer = answer
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def wait(self, within_s: float) -> PubAck:
        """Wait for the answer.

        Raises:
            InferbusError: it is an error, or none came in time.
        """
        if self.answer is None:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(within_s, self.answered, DependencyDown(f"not stored within {within_s:g} s"))
            try:
                await self._waiter
            finally:
                timer.cancel()
        if isinstance(self.answer, PubAck):
            return self.answer
        raise self.answer or DependencyDown("there is no answer")


class Tokens:
    """Ends of the subjects answers come to. The server finds the way of an answer quicker where one went lately: so a token
    comes again, when it was answered, and 255 others later at the earliest. What is not answered never does."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._generation = 0
        self._open: set[str] = set()

    def take(self) -> str:
        number = next(self._numbers)
        token = f"{self._generation}-{number % _TOKENS}"
        if token in self._open:
            return f"{self._generation}--{number}"
        self._open.add(token)
        return token

    def answered(self, token: str) -> None:
        self._open.discard(token)

    def begin_anew(self) -> None:
        """The connection was lost: answers to what was sent come no more, or whenever they like."""
        self._generation += 1
        self._open.clear()


class UsageLog:
    """Writes events for one process. `stop` it after what settles records. `later_s`: how long an event that could not be
    stored in time is kept trying, after it was written to the log."""

    def __init__(
        self, bus: Bus, registry: CollectorRegistry, *, hold_s: float = HOLD_S, later_s: float = _LATER_S
    ) -> None:
        self._bus = bus
        self._hold_s = hold_s
        self._later_s = later_s
        self._later: set[asyncio.Task[None]] = set()
        self._tokens = Tokens()
        self._open: dict[str, Record] = {}
        self._inbox = ""
        self._written = Counter("inferbus_usage_events_total", "Events of usage stored", registry=registry)
        self._again = Counter("inferbus_usage_again_total", "Events that were stored already", registry=registry)
        self._late = Counter(
            "inferbus_usage_late_total", "Events not stored when their request was acknowledged", registry=registry
        )
        self._lost = Counter("inferbus_usage_lost_total", "Events that could not be stored", registry=registry)

    async def start(self) -> None:
        self._inbox = self._bus.nc.new_inbox()
        await self._bus.listen(f"{self._inbox}.*", self._on_answer)
        self._bus.on_disconnect(self._on_disconnect)

    def begin(self, name: str, event: Events, *, of: str = "", soon: bool = False) -> Record:
        """Send an event (or several of one subject), before whatever is sent after it; `soon`: with that, or after 5 ms. `of` is
        the request's name where `name` is not. `settle` or `forget` the record."""
        token = self._tokens.take()
        record = self._open[token] = Record(name, event, token, of)
        whose = f"{OF}: {of}\r\n" if of else ""
        headers = f"NATS/1.0\r\n{_MSG_ID}: {name}\r\n{whose}\r\n".encode()
        try:
            self._bus.nc.send_named(_subject_of(event), to_json(event), f"{self._inbox}.{token}", headers, soon=soon)
        except nats.errors.Error as exc:  # it is sent again by `settle`
            record.answered(DependencyDown(f"the bus takes nothing now: {exc!r}"))
        return record

    def forget(self, record: Record) -> None:
        """Wait for this one no more: it is stored, or another attempt writes the request's."""
        if self._open.get(record.token) is record:
            del self._open[record.token]

    def is_stored(self, record: Record) -> bool:
        """Settle what is stored already, and was the first of its name; False: `settle` it."""
        ack = record.answer
        if not isinstance(ack, PubAck) or ack.duplicate:
            return False
        self._written.inc()
        return True

    def is_slow(self, record: Record) -> bool:
        """Whether the event is not stored yet, and few enough wait for that."""
        return not isinstance(record.answer, PubAck) and len(self._open) < _MANY

    async def settle(self, record: Record, *, amend: bool) -> None:
        """Wait until the event is stored. If one of the request was, and `amend`, store how this one differs from it. (Those
        of a group are made of what is stored of it, and do not differ.)

        Where it cannot be stored in time it is written to the log, whole, and counted; and tried on beside.
        """
        try:
            await self._settle(record, self._hold_s, min(FULL_S, self._hold_s), amend=amend)
        except InferbusError as exc:
            self._write_down(record, exc.message)
            self._try_on(record, amend=amend)
        except asyncio.CancelledError:  # the worker stops; whoever gets the message next is told that it is over
            self._write_down(record, "the worker is stopping")
            self._lose(record)
            raise
        finally:
            self.forget(record)

    async def stop(self) -> None:
        """End. What is still tried is in the log already, and is counted as lost."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    async def _settle(self, record: Record, hold_s: float, full_s: float, *, amend: bool) -> None:
        ack = await self._stored(record, hold_s, full_s)
        if not ack.duplicate:
            self._written.inc()
            return
        self._again.inc()
        if amend and isinstance(record.event, UsageEvent):
            await self._amend(record.name, record.event, ack.seq, hold_s, full_s)

    def _try_on(self, record: Record, *, amend: bool) -> None:
        if len(self._later) >= _MOST_LATER:
            self._lose(record)
            return
        task = asyncio.create_task(self._settle(record, self._later_s, self._later_s, amend=amend), name="usage-later")
        self._later.add(task)
        task.add_done_callback(lambda task: self._on_later(task, record))

    def _on_later(self, task: asyncio.Task[None], record: Record) -> None:
        self._later.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._lose(record)
        else:
            log.warning("usage_stored_late", name=record.name)

    def _write_down(self, record: Record, why: str) -> None:
        """Keep an event where it can be found by hand."""
        self._late.inc()
        log.error("usage_not_stored_yet", error=why, name=record.name, usage=msgspec.to_builtins(record.event))

    def _lose(self, record: Record) -> None:
        self._lost.inc()
        log.error("usage_not_stored", name=record.name)

    async def _stored(self, record: Record, hold_s: float, full_s: float) -> PubAck:
        try:
            return await record.wait(_ANSWER_S)
        except InferbusError:
            return await self._accept(record.event, record.name, hold_s, full_s, record.of)

    async def _accept(self, event: Events, name: str, hold_s: float, full_s: float, of: str = "") -> PubAck:
        """Store an event, however long the bus is away or full, up to the bounds."""
        subject, data, begun = _subject_of(event), to_json(event), time.monotonic()
        headers = {_MSG_ID: name} | ({OF: of} if of else {})
        while True:
            try:
                await self._bus.wait_connected(max(0.01, begun + hold_s - time.monotonic()))
                return ack_of((await self._bus.request(subject, data, headers, timeout_s=_ANSWER_S)).data)
            except InferbusError as exc:
                bound_s = full_s if isinstance(exc, Overloaded) else hold_s
                if time.monotonic() + _AGAIN_S >= begun + bound_s:
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _amend(self, name: str, event: UsageEvent, seq: int, hold_s: float, full_s: float) -> None:
        """An earlier attempt's event stands: add what is missing from it, so that the sum is this one's."""
        first = await self._read(seq)
        recorded = first.figures
        for n in itertools.count(1):
            missing = event.figures - recorded
            if not missing:
                return
            figures = msgspec.structs.asdict(missing)
            amended = msgspec.structs.replace(event, outcome=AMENDED, at=first.at, **figures)
            ack = await self._accept(amended, f"{name}:{n}", hold_s, full_s)
            if not ack.duplicate:
                log.info("usage_amended", name=name, request_id=event.request_id, **figures)
                return
            recorded += (await self._read(ack.seq)).figures

    async def _read(self, seq: int) -> UsageEvent:
        stored = await read_one(self._bus, routes.STREAM_USAGE, seq)
        return msgspec.json.decode(stored.data, type=UsageEvent)

    def _on_answer(self, message: Msg) -> None:
        token = message.subject.rsplit(".", 1)[1]
        self._tokens.answered(token)
        record = self._open.pop(token, None)
        if record is None:
            return
        if message.headers is not None and message.headers.get("Status") == "503":
            record.answered(DependencyDown("no stream takes events of usage"))
            return
        try:
            record.answered(ack_of(message.data))
        except InferbusError as exc:
            record.answered(exc)

    def _on_disconnect(self) -> None:
        self._tokens.begin_anew()
        open_records, self._open = list(self._open.values()), {}
        for record in open_records:
            record.answered(DependencyDown("the bus connection was lost"))


def _subject_of(event: Events) -> str:
    one = event if isinstance(event, UsageEvent) else event[0]
    return routes.usage(one.tenant, one.pool)
