"""DeltaWriter: keeps a durable answer in the stream DELTAS while it is made. One attempt's, the only one that may write.

Every write names the sequence of the one before it, so that an attempt which lost its place is refused by the server and
stops (docs/adr/0008-durable-answers.md). One write is on its way at a time; what comes meanwhile goes with the next.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from inferbus import routes
from inferbus.answers.delivered import Delivered, resume_from
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence, sequence_of
from inferbus.bus.stored import Stored, last_stored, read_stored
from inferbus.codec import pack, unpacker
from inferbus.contracts.durable import Claim, DeltaMessage, Deltas, StoredDelta
from inferbus.contracts.step import Cached, Delta, Done, Ids, Resume
from inferbus.errors import DependencyDown, InferbusError, ResumeImpossible

_MAX_MESSAGE_BYTES = 512 * 1024
_AGAIN_S = 0.1
_BEGIN_WITHIN_S = 15.0
log = structlog.get_logger()
decode_deltas = unpacker(DeltaMessage).decode


class Fenced(Exception):
    """Another attempt writes this answer: this one must send nothing any more."""


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Whose writes these are: the attempt's random number, its worker, and the delivery (stream sequence, number, and
    where it is acknowledged)."""

    run: int
    worker: str
    work: int
    attempt: int
    incarnation: str = ""
    ack_subject: str = ""


class Place(msgspec.Struct, frozen=True):
    """Where an answer stands. `resume` is None where nothing was generated yet."""

    created: int
    fingerprint: str
    resume: Resume | None


class DeltaWriter:
    """`begin`, then `add` as outputs come, `flush` at the end, `stop` always. `on_lost` is called once, when fenced."""

    def __init__(self, bus: Bus, tenant: str, request_id: str, author: Author, on_lost: Callable[[], None]) -> None:
        self._bus = bus
        self._subject = routes.deltas(tenant, request_id)
        self._author = author
        self._on_lost = on_lost
        self._created, self._fingerprint = 0, ""
        self._last_seq = 0
        self._stored = 0
        self._claimed = False
        self._kick, self._idle = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.lost = False
        self.story = 0
        self.deltas: list[StoredDelta] = []
        self.size = 0

    async def begin(self, fingerprint: str) -> Place:
        """Read what there is and claim it; with the claim whoever wrote before is refused.

        Raises:
            Fenced: a later delivery of the same message has it. ResumeImpossible: a part of what was delivered is gone.
            DependencyDown: the stream stayed away.
        """
        give_up = time.monotonic() + _BEGIN_WITHIN_S
        while True:
            try:
                place = self._take_up(await read_stored(self._bus, routes.STREAM_DELTAS, self._subject), fingerprint)
                await self._write_claim()
            except WrongSequence:  # the attempt before this one wrote once more
                continue
            except DependencyDown:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_AGAIN_S)
                continue
            self._task = asyncio.create_task(self._pump(), name="delta-writer")
            return place

    def add(self, ids: Ids, data: bytes, done: Sequence[Done], cached: Cached | None) -> None:
        """Take one output; it is written as soon as the one before it is stored."""
        self.size += len(data)
        self.deltas.append(StoredDelta(len(self.deltas), ids, data, list(done), cached))
        self._idle.clear()
        self._kick.set()

    async def flush(self) -> None:
        """Wait until everything is stored.

        Raises:
            Fenced: it will not be.
        """
        if not self.lost and self._stored < len(self.deltas):
            await self._idle.wait()
        if self.lost:
            raise Fenced

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- beginning ------------------------------------------------------------------------------------------------

    def _take_up(self, messages: list[Stored], fingerprint: str) -> Place:
        """Go on from what is stored."""
        self.deltas, claim = [], None
        self._last_seq = messages[-1].seq if messages else 0
        for message in messages:
            found: DeltaMessage = decode_deltas(message.data)
            if isinstance(found, Claim):
                claim = claim or found
                if found.work == self._author.work and found.attempt > self._author.attempt:
                    raise Fenced
            else:
                self.deltas += found.items
        if claim is None or [delta.k for delta in self.deltas] != list(range(len(self.deltas))):
            if messages:
                raise ResumeImpossible("a part of what was delivered is not kept any more")
            self.story = secrets.randbits(31)
            self._created, self._fingerprint = int(time.time()), fingerprint
        else:
            self.story, self._created, self._fingerprint = claim.story, claim.created, claim.fingerprint
        self._stored = len(self.deltas)
        self.size = sum(len(delta.data) for delta in self.deltas)
        return Place(self._created, self._fingerprint, self._resume())

    def _resume(self) -> Resume | None:
        delivered = Delivered(self._created, self._fingerprint)
        for delta in self.deltas:
            delivered.add(Delta(0, 0, 0, delta.ids, delta.data, 0, delta.done, delta.cached))
        if not delivered.can_continue:
            raise ResumeImpossible("the worker was lost before the first token was complete")
        return resume_from(delivered.answer(0, solo=False))

    async def _write_claim(self) -> None:
        author = self._author
        await self._write(
            Claim(
                author.run,
                self.story,
                self._stored,
                author.worker,
                author.work,
                author.attempt,
                self._created,
                self._fingerprint,
                author.incarnation,
                author.ack_subject,
            )
        )
        self._claimed = True

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while not self.lost:
            await self._kick.wait()
            self._kick.clear()
            while not self.lost and self._stored < len(self.deltas):
                try:
                    await self._write_next()
                except WrongSequence:
                    await self._find_out()
                except DependencyDown as exc:  # it may be stored all the same: look before writing again
                    log.debug("deltas_wait_for_bus", subject=self._subject, error=exc.message)
                    await asyncio.sleep(_AGAIN_S)
                    await self._find_out()
                except InferbusError as exc:  # the stream is full, and what it discards does not make room
                    log.warning("deltas_not_stored", subject=self._subject, code=exc.code, error=exc.message)
                    await asyncio.sleep(_AGAIN_S * 10)
            if self._stored >= len(self.deltas):
                self._idle.set()
        self._idle.set()

    async def _write_next(self) -> None:
        if not self._claimed:  # the stream was lost with the server's memory: write anew from the first
            await self._write_claim()
            return
        items: list[StoredDelta] = []
        size = 0
        for delta in self.deltas[self._stored :]:
            size += len(delta.data) + 8 * sum(len(ids) for _, ids in delta.ids)
            if items and size > _MAX_MESSAGE_BYTES:
                break
            items.append(delta)
        await self._write(Deltas(self._author.run, self.story, items))
        self._stored = items[-1].k + 1

    async def _write(self, message: DeltaMessage) -> None:
        answer = await self._bus.request(self._subject, pack(message), {EXPECTED: str(self._last_seq)})
        self._last_seq = sequence_of(answer.data)

    async def _find_out(self) -> None:
        """After a refused or lost write: see who wrote last, and go on from there if it was this attempt."""
        try:
            last = await last_stored(self._bus, routes.STREAM_DELTAS, self._subject)
        except DependencyDown:
            return  # the next write fails, or is refused, and leads here again
        if last is None:
            self._last_seq, self._stored, self._claimed = 0, 0, False
            return
        found: DeltaMessage = decode_deltas(last.data)
        if found.run != self._author.run:
            self.lost = True
            self._on_lost()
            return
        self._last_seq, self._claimed = last.seq, True
        self._stored = found.next if isinstance(found, Claim) else found.items[-1].k + 1
