"""DurableAttempt: an attempt whose answer is kept. Its deltas go to DELTAS, its outcome to RESULTS, and then it is over.

The asker, while there is one, hears that it began and that it ended; where there is none any more, the attempt runs on
to its stored end all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import structlog

from inferbus import routes
from inferbus.answers.attempts import ASKER_GONE, MAX_BODY_BYTES, MAX_KEPT_BYTES, Attempt
from inferbus.answers.by_ticket import MAX_ANSWER_BYTES
from inferbus.contracts.control import CANCEL, DROP, EXPIRE, STALE
from inferbus.contracts.durable import Outcome
from inferbus.contracts.step import Cached, Done, Ids, Usage
from inferbus.durable.delta_writer import Author, DeltaWriter, Fenced, Place
from inferbus.durable.event_ids import with_ids
from inferbus.durable.outcomes import ROW_KEPT_S, failed_outcome, store_outcome
from inferbus.errors import (
    Cancelled,
    DeadlineWhileRunning,
    InferbusError,
    TooLarge,
    error_from,
)

if TYPE_CHECKING:
    from inferbus.answers.attempts import Attempts
    from inferbus.contracts.envelope import Envelope
    from inferbus.queue.delivery import Delivery

_HOLD_S = 60.0
_AGAIN_S = 1.0
_WITH_ITS_END_BYTES = 64 * 1024
NOT_STORED = "not_stored"
log = structlog.get_logger()


class Group(Protocol):
    """What an attempt at a group of rows knows of them."""

    def outcome(self) -> Outcome:
        """Give what it has come to, where it ends before its rows do."""

    async def begin_bill(self, *, is_first: bool) -> None:
        """The outcome is stored, `is_first`: this attempt's. Send the rows' events, before anybody hears of it."""

    async def settle(self) -> None:
        """Wait until they are stored: the message is about to be ended."""


class DurableAttempt(Attempt):
    """One attempt at one durable request. `begin` it before anything else."""

    def __init__(self, owner: Attempts, envelope: Envelope, delivery: Delivery) -> None:
        super().__init__(owner, envelope, delivery)
        subject = routes.parse_infer(delivery.subject)
        self.tenant = subject.tenant
        # A row of a batch: nobody reads it while it is made, and its asker takes the answer from the end's frame.
        self.is_row = subject.lane == routes.BATCH and not envelope.streamed
        author = Author(
            run=self.run,
            worker=owner.process,
            work=delivery.seq,
            attempt=delivery.attempt,
            incarnation=owner.incarnation,
            ack_subject=delivery.reply,
        )
        self._bus = owner.bus
        self._writer = DeltaWriter(self._bus, self.tenant, envelope.request_id, author, lambda: self.stop(STALE))
        self._ending: asyncio.Task[None] | None = None
        self._has_outcome = self._is_first = False
        self.group: Group | None = None
        """What is to be said of its rows, where it is a group's."""

    @property
    def durable_name(self) -> tuple[str, str]:
        return self.tenant, self.envelope.request_id

    @property
    def has_outcome(self) -> bool:
        return self._has_outcome

    async def begin(self, fingerprint: str) -> Place:
        """Take the answer over from whoever wrote it, and learn where it stands.

        Raises:
            Cancelled: another attempt has it. ResumeImpossible, DependencyDown: it cannot be taken up (now).
        """
        if self.is_row:  # there is nothing to go on from: of two attempts the first outcome counts
            return Place(int(time.time()), fingerprint, None)
        try:
            return await self._writer.begin(fingerprint)
        except Fenced:
            self.stop(STALE)
            raise Cancelled("another attempt has it") from None

    def delta(self, ids: Ids, data: bytes, done: Sequence[Done] = (), cached: Cached | None = None) -> None:
        if self._ending is not None or self.over.done():
            return
        self.deltas += 1
        self._writer.add(ids, data, done, cached)
        if self._writer.size > MAX_KEPT_BYTES or len(data) > MAX_BODY_BYTES:
            limits = f"{MAX_KEPT_BYTES} bytes, or a part of it over {MAX_BODY_BYTES}"
            self.failed(TooLarge.code, f"the answer grew over {limits}", final=True)
            self._stop_engine()

    def finished(self, status: int, usage: Usage, data: bytes, content_type: str) -> None:
        if not self.envelope.streamed or status != 200:
            if len(data) > MAX_ANSWER_BYTES:
                message = f"the answer has {len(data)} bytes, the limit is {MAX_ANSWER_BYTES}"
                self.failed(TooLarge.code, message, final=True)
                return
            outcome = Outcome(status=status, usage=usage, body=data, content_type=content_type)
            self._end_with(lambda: outcome)
            return
        if data:
            self.delta([], data)
        self._end_with(lambda: self._events(usage, content_type))

    def failed(self, code: str, message: str, *, final: bool) -> None:
        if final:
            self.failure = self.failure or code
            self._end_with(lambda: self._failure(error_from(code, message)))
        elif self._ending is None:
            super().failed(code, message, final=False)

    def asker_gone(self) -> None:
        """Nobody waits for the confirm of an end that is stored; until then the answer goes on."""
        if self.end is not None and not self.over.done():
            self.over.set_result(ASKER_GONE)

    def stop(self, how: str) -> None:
        if how != STALE and self._ending is not None:
            return  # too late: its end is being stored
        super().stop(how)

    async def expire(self) -> None:
        await self._settle(DeadlineWhileRunning("the deadline passed while the request was running"), _AGAIN_S)

    async def let_go(self, again_s: float) -> None:
        how = await self.over
        if how == EXPIRE:
            await self.expire()
        elif how in (CANCEL, DROP):
            await self._settle(Cancelled("the request was cancelled"), again_s)
        else:
            await self._settle(None, again_s)

    async def _settle(self, error: InferbusError | None, again_s: float) -> None:
        """End the message if its outcome is stored, else hand it back. With an error, that is the outcome."""
        if error is not None and self._ending is None:
            with suppress(Fenced):
                await self._store(lambda: self._failure(error))
        if self._has_outcome and self.group is not None:
            await self.group.settle()
        if self._has_outcome and self.is_row:
            self.delivery.ack()  # lost, it comes back and is found to be over
        elif self._has_outcome:
            await self.delivery.ack_surely()
        else:
            self.delivery.nak(again_s)  # says nothing where the attempt is stale

    async def closed(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
        await super().closed()
        await self._writer.stop()

    # --- the end --------------------------------------------------------------------------------------------------

    def _end_with(self, outcome: Callable[[], Outcome]) -> None:
        if self._ending is None and not self.over.done():
            self._ending = asyncio.create_task(self._end_durably(outcome), name="durable-end")

    async def _end_durably(self, outcome: Callable[[], Outcome]) -> None:
        try:
            stored = await self._store(outcome)
        except Fenced:
            self.stop(STALE)
            return
        except Exception:  # or nobody would ever end the message
            log.exception("durable_end_failed", request_id=self.envelope.request_id)
            stored = None
        if not self._has_outcome:
            if not self.over.done():
                self.over.set_result(NOT_STORED)
        elif stored is not None and stored.failure is not None:
            super().failed(stored.failure.code, stored.failure.message, final=True)
        elif stored is not None:
            fits = self.is_row and self._is_first and len(stored.body) <= _WITH_ITS_END_BYTES
            super().finished(stored.status, stored.usage, stored.body if fits else b"", stored.content_type)

    async def _store(self, make: Callable[[], Outcome]) -> Outcome | None:
        """Store the outcome behind all that it ends; None where the bus stayed away."""
        await self._writer.flush()
        outcome = make()
        try:
            self._is_first = await store_outcome(
                self._bus, self.tenant, self.envelope.request_id, outcome, hold_s=_HOLD_S,
                ttl_s=ROW_KEPT_S if self.is_row else None, soon=self.is_row,
            )  # fmt: skip
        except InferbusError as exc:
            log.error("outcome_not_stored", request_id=self.envelope.request_id, code=exc.code, error=exc.message)
            return None
        self._has_outcome = True
        if self.group is not None:
            await self.group.begin_bill(is_first=self._is_first)
        return outcome

    def _events(self, usage: Usage, content_type: str) -> Outcome:
        writer = self._writer
        return Outcome(
            status=200,
            usage=usage,
            content_type=content_type,
            body=b"".join([with_ids(writer.story, delta.k, delta.data) for delta in writer.deltas]),
            streamed=True,
            deltas=len(writer.deltas),
            story=writer.story,
        )

    def _failure(self, error: InferbusError) -> Outcome:
        """Make the outcome of an error; what it cost is known as far as tokens came back."""
        if self.group is not None:
            return self.group.outcome()
        usage = Usage(0, sum(len(ids) for delta in self._writer.deltas for _, ids in delta.ids))
        if not self._writer.deltas:
            return failed_outcome(error, usage)
        return failed_outcome(error, usage, events=self._events(usage, "text/event-stream; charset=utf-8"))
