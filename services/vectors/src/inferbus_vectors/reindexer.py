"""Reindexer: takes one collection to its other placement, from wherever whoever did it before has stopped.

Everything it must know after a crash is in the collection's record. It works as long as the record says it is the owner;
another process takes over when it is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from inferbus.contracts.vectors import (
    BUILDING,
    CANCELLED,
    CAUGHT_UP,
    DELETING,
    DONE,
    DROPPING,
    ENDING,
    FAILED,
    SWAPPED,
    CollectionRecord,
    Reindexing,
)
from inferbus.errors import Conflict, NotFound, Permanent, Transient, Unsupported
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.domain.points import Scope, Where, shard_of
from inferbus_vectors.domain.reindexing import advanced, is_open, may_drop, moved
from inferbus_vectors.moving import Moving, Way
from inferbus_vectors.ports import Payer, VectorIndex
from inferbus_vectors.unused import drop_if_unused

_AGAIN_S, _LONGEST_AGAIN_S = 0.5, 15.0
_RECENT_S = 5.0
"""A write that takes longer than that to reach both placements was made by somebody who did not know of both."""
_SHOWN = 10
log = structlog.get_logger()


class ReindexDeps(msgspec.Struct, frozen=True, kw_only=True):
    """`me` is this process's incarnation; `settle_s` how long after the start everybody has heard of it."""

    book: CollectionBook
    index: VectorIndex
    moving: Moving
    me: str
    settle_s: float = 2.0
    clock: Callable[[], float] = time.time


class _NotOurs(Exception):
    """The record says that somebody else goes on with it, or that it is over."""


class Reindexer:
    """One run of one collection: `run` it to its end, or cancel that."""

    def __init__(self, deps: ReindexDeps, record: CollectionRecord) -> None:
        self._deps = deps
        self._record = record
        self._steps = {
            BUILDING: self._build, CAUGHT_UP: self._verify, SWAPPED: self._keep, DROPPING: self._drop, ENDING: self._end,
        }  # fmt: skip

    async def run(self) -> None:
        """Go on until it is over, or somebody else's. What is of the moment is waited for."""
        pause_s, why = _AGAIN_S, ""
        while True:
            try:
                await self._look()
                if why:
                    await self._fail(why)
                    why = ""
                await self._steps[self._reindexing.state]()
                pause_s = _AGAIN_S
            except _NotOurs:
                return
            except Conflict as error:  # somebody has ended it, or is changing the record
                log.info("reindexing_looks_again", collection=self._record.name, error=error.message)
                why = ""
            except Transient as error:
                log.info("reindexing_waits", collection=self._record.name, error=error.message)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_AGAIN_S)
            except Permanent as error:
                why = error.message

    @property
    def _reindexing(self) -> Reindexing:
        assert self._record.reindexing is not None  # noqa: S101  # for the type checker; `run` looks before every step
        return self._record.reindexing

    @property
    def _way(self) -> Way:
        record = self._record
        payer = Payer(record.tenant, self._reindexing.key_id)
        return Way(record=record, source=record.live, target=self._reindexing.to, payer=payer)

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def _build(self) -> None:
        spec = shard_of(self._reindexing.to)
        await self._deps.index.ensure(spec)
        await self._deps.index.index_fields(spec.name, self._record.fields)
        while self._reindexing.state == BUILDING:
            copied = await self._deps.moving.copy_next(self._way, self._reindexing.cursor)
            if copied.failed:
                shown = ", ".join(copied.failed[:_SHOWN])
                raise Unsupported(
                    f"{len(copied.failed)} documents cannot move: no text that {self._reindexing.to.model or 'nobody'} "
                    f"takes, and a vector of another length ({shown})"
                )
            await self._change(lambda record, copied=copied: self._past(record, copied.cursor, copied.documents))  # type: ignore[misc]  # a default binds it

    def _past(self, record: CollectionRecord, cursor: str, documents: int) -> CollectionRecord:
        """Give the record of a run that has copied some more; at the end it has caught up."""
        now, reindexing = self._deps.clock(), record.reindexing
        if reindexing is None:
            raise _NotOurs
        if cursor:
            return msgspec.structs.replace(record, reindexing=advanced(reindexing, cursor, documents, now), updated=now)
        done = msgspec.structs.replace(reindexing, done=reindexing.done + documents)  # once: the state changes with it
        return moved(msgspec.structs.replace(record, reindexing=done), CAUGHT_UP, now)

    async def _verify(self) -> None:
        """Compare until nothing differs but what is being written, then swap. Not before everybody has heard of it."""
        since = self._reindexing.since.get(BUILDING, 0.0)
        await asyncio.sleep(max(0.0, since + self._deps.settle_s - self._deps.clock()))
        while self._reindexing.state == CAUGHT_UP:
            compared = await self._deps.moving.compare_all(self._way, now=self._deps.clock, recent_s=_RECENT_S)

            def counted(record: CollectionRecord) -> CollectionRecord:
                reindexing = record.reindexing
                if reindexing is None or reindexing.state != CAUGHT_UP:
                    raise Conflict("it compares no more")
                more = msgspec.structs.replace(
                    reindexing, passes=reindexing.passes + 1, repaired=reindexing.repaired + compared.mended  # noqa: B023  # called at once
                )  # fmt: skip
                record = msgspec.structs.replace(record, reindexing=more)
                return record if compared.long_since else moved(record, SWAPPED, self._deps.clock())  # noqa: B023  # called at once

            await self._change(counted)
        log.info("reindexing_swapped", collection=self._record.name, to=shard_of(self._record.live).name)

    async def _keep(self) -> None:
        """Keep the old placement for those who read it still, and for whoever wants to return."""
        while self._reindexing.state == SWAPPED:
            if may_drop(self._reindexing, self._deps.clock()):
                await self._change(lambda record: moved(record, DROPPING, self._deps.clock()))
            else:
                await asyncio.sleep(_AGAIN_S)
                await self._look()

    async def _drop(self) -> None:
        await self._clear()
        await self._change(lambda record: moved(record, DONE, self._deps.clock()))
        log.info("reindexing_done", collection=self._record.name, documents=self._reindexing.done)
        await self._drop_shard()

    async def _end(self) -> None:
        await asyncio.sleep(self._deps.settle_s)  # until nobody writes there any more
        await self._clear()
        outcome = FAILED if self._reindexing.error else CANCELLED
        await self._change(lambda record: moved(record, outcome, self._deps.clock()))
        log.info("reindexing_ended", collection=self._record.name, outcome=outcome, error=self._reindexing.error)
        await self._drop_shard()

    async def _clear(self) -> None:
        """Remove what the other placement has of this collection."""
        where = Where(scope=Scope(self._record.tenant, self._record.id))
        try:
            await self._deps.index.erase(shard_of(self._reindexing.to).name, where)
        except NotFound:
            return  # there is no such shard, or no more

    async def _drop_shard(self) -> None:
        """Drop the other placement's shard where nothing is in it any more; what cannot be done now the sweep does."""
        try:
            await drop_if_unused(self._deps.index, self._deps.book, shard_of(self._reindexing.to).name)
        except Transient as error:
            log.info("empty_shard_stays", error=error.message)

    async def _fail(self, why: str) -> None:
        await self._change(lambda record: moved(record, ENDING, self._deps.clock(), error=why))

    # --- the record -----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """See what the record says now: somebody may have ended it."""
        await self._change(lambda record: record)

    async def _change(self, decide: Callable[[CollectionRecord], CollectionRecord]) -> None:
        def ours(record: CollectionRecord) -> CollectionRecord:
            reindexing = record.reindexing
            if reindexing is None or reindexing.owner != self._deps.me or not is_open(reindexing):
                raise _NotOurs
            if record.state == DELETING:  # all of it goes
                raise _NotOurs
            return decide(record)

        try:
            self._record = await self._deps.book.change(self._record, ours)
        except NotFound:
            raise _NotOurs from None
