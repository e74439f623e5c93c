"""DurableReader: one client's view of a kept answer, from any gateway and any place in it to its end.

It listens first (`stored.*`: what the server has stored, in order), then reads what is there already, then goes on live;
a gap is read from the stream. The outcome holds every event once more: what the memory stream has lost comes from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.answers.exchange import Begun, Chunk, Ended, Event
from inferbus.bus import Bus
from inferbus.bus.stored import Stored, last_stored, read_stored
from inferbus.contracts.durable import Claim, DeltaMessage, Outcome, StoredDelta, outcome_from
from inferbus.durable.delta_writer import decode_deltas
from inferbus.durable.event_ids import EventId, events_from, with_ids
from inferbus.durable.outcomes import whole_outcome
from inferbus.errors import Cancelled, DependencyDown, InferbusError, ResumeImpossible, error_from

_MAX_BUFFER_BYTES = 1024 * 1024
_LOOK_AGAIN_S = 15.0
_AGAIN_S = 0.2
log = structlog.get_logger()


class DurableReader:
    """`start`, then `next` until `Ended` or an error, `close` always. A reader that is slow costs 1 MB, then re-reads.

    `after`: the last event the client has. `started`: an engine has, or had, the request. Chunks carry event ids.
    """

    def __init__(self, bus: Bus, tenant: str, request_id: str, *, after: EventId | None = None) -> None:
        self._bus = bus
        self._tenant = tenant
        self._request_id = request_id
        self._next = after.k if after is not None else 0
        self._begin = after.i + 1 if after is not None else 0
        self._story = after.story if after is not None else None
        self._given = after is not None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._outcome: Outcome | None = None
        self._end: Ended | None = None
        self._error: InferbusError | None = None
        self._must_read = True
        self._waiting: list[Msg] | None = None
        self._seq = 0
        self._hole = False
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None
        self._closers: list[Callable[[], None]] = []
        self._told_begun = False
        self.started = False
        self.claim: Claim | None = None
        """Who writes the answer, as last seen."""

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            DependencyDown: the connection is closed.
        """
        forget = self._bus.on_reconnect(self._on_reconnect)
        self._closers.append(forget)
        subject = routes.stored_filter(self._tenant, self._request_id)
        self._subscription = await self._bus.subscribe(subject, self._on_stored)

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Be called once when the reader closes."""
        self._closers.append(callback)

    async def close(self) -> None:
        closers, self._closers = self._closers, []
        for closer in closers:
            closer()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._bus.unsubscribe(subscription)

    @property
    def name(self) -> tuple[str, str]:
        return self._tenant, self._request_id

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self._outcome is not None or self._error is not None

    def leave(self) -> None:
        """The client is gone: whoever waits in `next` hears of it."""
        self._error = self._error or Cancelled("the client went away; the request goes on")
        self._news.set()

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event, as `Exchange.next` does; None after `timeout_s` seconds without one.

        Raises:
            InferbusError: the request ended in an error of the platform. ResumeImpossible: the answer does not go on
                from what the client has.
        """
        give_up = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        while True:
            if self.started and not self._told_begun:
                self._told_begun = True
                return Begun()
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks.clear()
                self._buffered = 0
                return Chunk(data)
            if self._error is not None:
                raise self._error
            if self._end is not None:
                return self._end
            if self._must_read:
                await self._read(give_up)
            elif not await self._wait(give_up):
                return None

    # --- listening ------------------------------------------------------------------------------------------------

    async def _on_reconnect(self) -> None:
        """What was sent meanwhile is lost; and the server may count anew."""
        self._must_read, self._seq = True, 0
        self._news.set()

    async def _on_stored(self, message: Msg) -> None:
        headers = message.headers or {}
        if self._waiting is not None:
            self._waiting.append(message)
        elif routes.is_stored_result(message.subject):
            await self._on_outcome(outcome_from(headers, message.data))
        else:
            self._on_deltas(message.data, int(headers.get("Nats-Sequence", "0")))
        self._news.set()

    async def _wait(self, give_up: float | None) -> bool:
        """Wait for news; False when `give_up` was first. Looks by itself now and then: a message may have been lost."""
        loop = asyncio.get_running_loop()
        look = loop.time() + _LOOK_AGAIN_S
        self._news.clear()
        try:
            async with asyncio.timeout_at(look if give_up is None else min(look, give_up)):
                await self._news.wait()
        except TimeoutError:
            if give_up is not None and loop.time() >= give_up:
                return False
            self._must_read = True
        return True

    # --- reading what is stored -----------------------------------------------------------------------------------

    async def _read(self, give_up: float | None) -> None:
        """Read everything that is stored; what is sent meanwhile waits its turn."""
        self._must_read, self._waiting = False, []
        try:
            end = await last_stored(self._bus, routes.STREAM_RESULTS, routes.results(self._tenant, self._request_id))
            outcome = None if end is None else outcome_from(end.headers, end.data)
            kept: list[Stored] = []
            if outcome is None or not outcome.streamed:
                subject = routes.deltas(self._tenant, self._request_id)
                kept = await read_stored(self._bus, routes.STREAM_DELTAS, subject, self._seq)
        except DependencyDown as exc:
            log.debug("durable_reader_waits", request_id=self._request_id, error=exc.message)
            self._must_read, self._waiting = True, None
            left_s = _AGAIN_S if give_up is None else give_up - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, min(_AGAIN_S, left_s)))
            return
        for stored in kept:
            self._on_deltas(stored.data, stored.seq)
        self._must_read = self._must_read and not self._hole  # a hole in what is stored is filled by the outcome only
        waiting, self._waiting = self._waiting, None
        if outcome is not None:
            await self._on_outcome(outcome)
        for message in waiting:
            await self._on_stored(message)

    # --- taking ---------------------------------------------------------------------------------------------------

    def _on_deltas(self, data: bytes, seq: int) -> None:
        if self._end is not None or self._error is not None or self._outcome is not None:
            return
        message: DeltaMessage = decode_deltas(data)
        if not self._fits(message.story):
            return
        self.started = True
        if isinstance(message, Claim):
            self.claim = message
        elif all(self._take(delta) for delta in message.items):
            self._seq = seq

    def _fits(self, story: int) -> bool:
        """Whether this is the answer the client has the beginning of."""
        if self._story is None or (not self._given and self._story != story):
            self._story, self._next, self._begin = story, 0, 0
        elif self._story != story:
            self._error = ResumeImpossible("the answer was begun anew and does not go on from what was delivered")
            return False
        return True

    def _take(self, delta: StoredDelta) -> bool:
        """Take the next delta; False where it is not the next, or there is no room for it now."""
        if delta.k < self._next:
            return True
        self._hole = delta.k > self._next
        if self._hole or self._buffered > _MAX_BUFFER_BYTES:
            self._must_read = True
            if self._hole:
                self._seq = 0
            return False
        self._give(with_ids(self._story or 0, delta.k, delta.data, begin=self._begin))
        self._next, self._begin = delta.k + 1, 0
        return True

    def _give(self, data: bytes) -> None:
        if data:
            self._given = True
            self._chunks.append(data)
            self._buffered += len(data)

    async def _on_outcome(self, outcome: Outcome) -> None:
        """Take the end, and from it what is missing before it."""
        if self._outcome is not None:
            return
        self._outcome = outcome  # while its body is fetched, nothing else is taken
        try:
            outcome = await whole_outcome(self._bus, self._tenant, outcome)
        except DependencyDown:
            self._outcome, self._must_read = None, True
            return
        except InferbusError as exc:
            self._error = exc
            return
        self.started = self.started or outcome.failure is None
        if outcome.streamed:
            if self._story is not None and self._given and self._story != outcome.story:
                self._error = ResumeImpossible("the answer was begun anew and does not go on from what was delivered")
                return
            self._give(events_from(outcome.body, self._next, self._begin))
        if outcome.failure is not None:
            self._error = error_from(outcome.failure.code, outcome.failure.message)
        else:
            body = b"" if outcome.streamed else outcome.body
            self._end = Ended(outcome.status, outcome.usage, body, outcome.content_type)
