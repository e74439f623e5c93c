"""Exchange: one open request as its asker sees it. A state machine fed by frames and read by one consumer.

It knows no NATS: the asker feeds it frames that passed the fence and carries out what it asks for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from inferbus.answers.delivered import Delivered
from inferbus.answers.head_lines import Headers, headers_in
from inferbus.answers.patience import Patience
from inferbus.contracts.step import FRESH, Answer, Delta, Failed, Finished, Started, Usage
from inferbus.errors import (
    Cancelled,
    DeadlineWhileQueued,
    DeadlineWhileRunning,
    InferbusError,
    SlowClient,
    error_from,
)
from inferbus.routes import INTERACTIVE

MAX_BUFFER_BYTES = 1024 * 1024


class Begun(msgspec.Struct, frozen=True):
    """An engine has the request."""


class Chunk(msgspec.Struct, frozen=True):
    """SSE bytes: all that came since the last read, joined."""

    data: bytes


class Ended(msgspec.Struct, frozen=True):
    """The regular end. `data` is the whole body where nothing was streamed, else empty."""

    status: int
    usage: Usage
    data: bytes
    content_type: str


Event = Begun | Chunk | Ended


class Stored(msgspec.Struct, frozen=True):
    """Where the bus keeps a request until it is done."""

    stream: str
    sequence: int


class Fence(msgspec.Struct, frozen=True):
    """Whose frames count: set by the first `started`, held until the work goes back to the queue."""

    worker: str
    incarnation: str
    attempt: int
    ack_subject: str
    run: int


class Exchange:
    """Open until `close`. Read it with `next`; frames of the accepted attempt arrive through `feed`.

    `ended`: the reader gets no more. `finished`: the worker itself said so, nobody needs to tell it. `given_up`: the
    last attempt that was taken back; its frames count no more. `asked_again`: (sequence, monotonic seconds) of the last
    request for missing frames. `delivered`: what the reader of a stream has, or will have read before its end; None
    before the first delta. `stored` is None until the bus has accepted it; `handed_in`: it may have, its word is not here
    yet; `refused`: it did not. `durable`: its answer is kept elsewhere, its deltas do not come here, and it goes on without
    this process. `rate_head` tells its client how its limits stand: lines of an HTTP head.
    """

    # Of the class: most requests leave most of them as they are.
    stored: Stored | None = None
    accepted_s = 0.0
    handed_in = refused = False
    estimated_tokens = 0
    durable = False
    load: Callable[[str], Awaitable[bytes]] | None = None
    """Fetches an answer that was too large for a frame, by its ticket."""
    rate_head = b""
    fence: Fence | None = None
    given_up: Fence | None = None
    asked_again = (-1, 0.0)
    next_seq = 0
    delivered: Delivered | None = None
    told_stale = 0.0
    engine_deaths = 0
    ended = finished = False
    _begun = _told_begun = _closed = False
    _created, _fingerprint = 0, ""
    _buffered = 0
    _ticket = ""
    _end: Ended | None = None
    _error: InferbusError | None = None
    _waiter: asyncio.Future[bool] | None = None
    _patience: Patience | None = None

    def __init__(
        self,
        *,
        request_id: str,
        tag: int,
        tenant: str,
        pool: str,
        deadline_s: float,
        on_close: Callable[[Exchange], None],
        lane: str = INTERACTIVE,
        streamed: bool = False,
    ) -> None:
        self.request_id = request_id
        self.tag = tag
        self.tenant = tenant
        self.pool = pool
        self.lane = lane
        self.streamed = streamed
        self.opened = time.monotonic()
        self._on_close = on_close
        self._chunks: list[bytes] = []
        self._closers: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(deadline_s, self._on_deadline)

    # --- the reader's side ----------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        return self._begun

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event; None after `timeout_s` seconds without one.

        Raises:
            InferbusError: the request ended in an error of the platform (DeadlineWhileQueued, DeadlineWhileRunning,
                EngineDead, Poison, Cancelled, SlowClient, ...).
        """
        while True:
            if self._begun and not self._told_begun:
                self._told_begun = True
                return Begun()
            if self._chunks:
                data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                self._buffered = 0
                return Chunk(data)
            if self._end is not None:
                return await self._fetched(self._end) if self._ticket else self._end
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            if timeout_s is not None or self._patience is not None:  # whoever waits for the end only needs none
                self._be_patient(timeout_s)
            try:
                if not await self._waiter:
                    return None
            finally:
                self._waiter = None

    async def whole(self) -> Ended:
        """Wait for the end only. Raises as `next`."""
        self._told_begun = True  # nobody is to be woken for it
        while True:
            event = await self.next()
            if type(event) is Ended:
                return event

    def cancel(self) -> None:
        """The client is gone, in whatever phase: free everything. Idempotent."""
        self.close()

    def close(self) -> None:
        """Let go. A request that has not ended is cancelled wherever it is, and whoever still reads is told so."""
        if not self.ended:
            self.fail(Cancelled("the request was cancelled"))
        self._let_go()

    def give_up(self, error: InferbusError) -> None:
        """End in `error` and free everything, without waiting for a reader that may be stuck."""
        self.fail(error)
        self._let_go()

    def _let_go(self) -> None:
        if not self._closed:
            self._closed = True
            self._timer.cancel()
            if self._patience is not None:
                self._patience.end()
                self._patience = None
            self._on_close(self)
            closers, self._closers = self._closers, []  # they know this exchange, and are not for the garbage collector
            for closer in closers:
                closer()

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Be called once when the exchange closes."""
        self._closers.append(callback)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def error(self) -> InferbusError | None:
        """What it ended in, if it was an error."""
        return self._error

    @property
    def end(self) -> Ended | None:
        """Its regular end, if it came to one."""
        return self._end

    @property
    def delivered_tokens(self) -> int:
        return self.delivered.tokens if self.delivered is not None else 0

    @property
    def rate_headers(self) -> Headers:
        """`rate_head` by name."""
        return headers_in(self.rate_head)

    # --- the asker's side -----------------------------------------------------------------------------------------

    def accepted(self, stored: Stored | None = None) -> None:
        """The bus has it durably."""
        self.stored = stored
        self.accepted_s = time.monotonic() - self.opened

    def refuse(self, error: InferbusError) -> None:
        """The bus did not take it."""
        self.refused = True
        self.give_up(error)

    def handed_over(self) -> None:
        """It is with a worker, whichever: delivered directly."""
        self._begun = True

    def begin(self, frame: Started) -> None:
        """Accept an attempt: from now on only its frames count."""
        self.fence = Fence(frame.worker, frame.incarnation, frame.attempt, frame.ack_subject, frame.run)
        self._created, self._fingerprint = frame.created, frame.fingerprint
        self.next_seq = frame.seq + 1
        self._begun = True
        if not self._told_begun:
            self._wake()

    def feed(self, frame: Delta | Finished | Failed) -> None:
        """Take the next frame in order of the accepted attempt."""
        self.next_seq = frame.seq + 1
        if self.ended:
            return
        if type(frame) is Delta:
            delivered = self.delivered
            if delivered is None:
                delivered = self.delivered = Delivered(self._created, self._fingerprint)
            delivered.add(frame)
            self._buffered += len(frame.data)
            if self._buffered > MAX_BUFFER_BYTES:
                self.give_up(SlowClient(f"more than {MAX_BUFFER_BYTES} bytes were waiting to be read"))
                return
            if frame.data:
                self._chunks.append(frame.data)
                self._wake()
        elif type(frame) is Finished:
            self.ended = self.finished = True
            self._end = Ended(frame.status, frame.usage, frame.data, frame.content_type)
            self._ticket = frame.ticket
            self._timer.cancel()
            self._wake()
        elif type(frame) is Failed:
            self.finished = True
            self.fail(error_from(frame.code, frame.message))

    def requeue(self) -> None:
        """The attempt is over without an end: wait for the next one, which goes on from what was delivered."""
        self.given_up, self.fence = self.fence or self.given_up, None
        self.next_seq = 0
        self.asked_again = (-1, 0.0)

    def is_given_up(self, frame: Started) -> bool:
        """Whether a `started` comes from an attempt whose work was taken back, or from one before it."""
        old = self.given_up
        if old is None or frame.attempt > old.attempt:
            return False
        return frame.attempt < old.attempt or (frame.incarnation, frame.run) == (old.incarnation, old.run)

    def fits(self, frame: Started) -> bool:
        """Whether an attempt goes on from what was delivered. One that did not ask begins anew, and cannot count."""
        return frame.resumed == self.delivered_tokens

    def resume_answer(self, *, solo: bool) -> Answer:
        """Say to an attempt that asks where to begin."""
        if self.delivered is None:
            return Answer(FRESH, self.engine_deaths, solo)
        return self.delivered.answer(self.engine_deaths, solo=solo)

    def fail(self, error: InferbusError) -> None:
        """End in an error; what was delivered before it is still read first."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        self._timer.cancel()
        self._wake()

    def _on_deadline(self) -> None:
        if self._begun:
            self.fail(DeadlineWhileRunning("the deadline passed while the request was running"))
        else:
            self.fail(DeadlineWhileQueued("no worker could start the request before its deadline"))

    def _wake(self) -> None:
        if self._waiter is not None:
            _resolve(self._waiter, True)

    async def _fetched(self, end: Ended) -> Ended:
        if self.load is None:
            raise InferbusError("an answer came by ticket, and nobody here can fetch it")
        data = await self.load(self._ticket)
        self._end, self._ticket = Ended(end.status, end.usage, data, end.content_type), ""
        return self._end

    def _be_patient(self, timeout_s: float | None) -> None:
        if self._patience is None:
            self._patience = Patience(self._loop, self._on_patience_over)
        self._patience.begin(timeout_s)

    def _on_patience_over(self) -> None:
        if self._waiter is not None:
            _resolve(self._waiter, False)


def _resolve(waiter: asyncio.Future[bool], result: bool) -> None:
    if not waiter.done():
        waiter.set_result(result)
