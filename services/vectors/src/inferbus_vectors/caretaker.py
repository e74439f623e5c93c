"""Caretaker: sees to what takes its time. Reindexings that nobody works on, collections that are to go, documents whose
time is over. Whatever a process leaves, another one's caretaker takes up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import structlog

from inferbus.contracts.vectors import DELETING, AliasRecord, CollectionRecord
from inferbus.errors import Conflict, InferbusError, NotFound
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.collections_view import CollectionsView
from inferbus_vectors.domain.points import Scope, Where, shard_of
from inferbus_vectors.domain.reindexing import is_open
from inferbus_vectors.ports import VectorIndex
from inferbus_vectors.reindexer import ReindexDeps, Reindexer
from inferbus_vectors.unused import drop_if_unused

_LOOK_S = 1.0
_AT_ONCE = 2
log = structlog.get_logger()


class CareDeps(msgspec.Struct, frozen=True, kw_only=True):
    """`may_live` says of an incarnation whether its process may be alive. `reindex.me` is this one's."""

    view: CollectionsView
    book: CollectionBook
    index: VectorIndex
    reindex: ReindexDeps
    may_live: Callable[[str], bool]
    sweep_every_s: float
    clock: Callable[[], float] = time.time


class Caretaker:
    """`start` it, then `stop`."""

    def __init__(self, deps: CareDeps) -> None:
        self._deps = deps
        self._caring: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._forget: Callable[[], None] = lambda: None
        self._reindexings = asyncio.Semaphore(_AT_ONCE)

    async def start(self) -> None:
        self._forget = self._deps.view.on_change(lambda _key, _named: self._wake.set())
        self._tasks = [
            asyncio.create_task(self._look_after_all(), name="caretaker"),
            asyncio.create_task(self._sweep(), name="sweeper"),
        ]

    async def stop(self) -> None:
        self._forget()
        tasks = [*self._tasks, *self._caring.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_after_all(self) -> None:
        while True:
            self._wake.clear()
            for record in self._deps.view.all():
                if record.id not in self._caring and (record.state == DELETING or is_open(record.reindexing)):
                    self._care(record)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()

    def _care(self, record: CollectionRecord) -> None:
        work = self._remove(record) if record.state == DELETING else self._reindex(record)
        task = asyncio.create_task(work, name=f"care-{record.name}")
        self._caring[record.id] = task
        task.add_done_callback(lambda done: self._on_done(record, done))

    def _on_done(self, record: CollectionRecord, task: asyncio.Task[None]) -> None:
        self._caring.pop(record.id, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, InferbusError):
            log.info("collection_care_waits", collection=record.name, error=error.message)
        else:
            log.error("collection_care_failed", collection=record.name, error=repr(error))

    # --- what is to be done -------------------------------------------------------------------------------------------

    async def _reindex(self, record: CollectionRecord) -> None:
        """Make a reindexing ours unless its owner lives, and do it."""
        deps = self._deps.reindex

        def ours(now: CollectionRecord) -> CollectionRecord:
            reindexing = now.reindexing
            if reindexing is None or not is_open(reindexing) or now.state == DELETING:
                raise Conflict("there is nothing to do")
            if reindexing.owner not in ("", deps.me) and self._deps.may_live(reindexing.owner):
                raise Conflict("somebody does it")
            return msgspec.structs.replace(now, reindexing=msgspec.structs.replace(reindexing, owner=deps.me))

        async with self._reindexings:
            try:
                taken = await self._deps.book.change(record, ours)
            except (Conflict, NotFound):
                await asyncio.sleep(_LOOK_S)
                return
            await Reindexer(deps, taken).run()

    async def _remove(self, record: CollectionRecord) -> None:
        """Remove all a collection has, then its aliases and its record. Twice, since a document may still be on its way."""
        places = [record.live] + ([record.reindexing.to] if record.reindexing is not None else [])
        where = Where(scope=Scope(record.tenant, record.id))
        for _ in range(2):
            for place in places:
                with contextlib.suppress(NotFound):
                    await self._deps.index.erase(shard_of(place).name, where)
            await asyncio.sleep(self._deps.reindex.settle_s)
        for one in await self._deps.book.of_tenant(record.tenant):
            if isinstance(one, AliasRecord) and one.collection == record.name:
                await self._deps.book.forget(one)
        await self._deps.book.forget(record)
        log.info("collection_removed", tenant=record.tenant, collection=record.name)

    async def _sweep(self) -> None:
        """Remove documents whose time is over, and shards with nothing in them. Those documents are not found from that time
        on, whenever this comes by."""
        while True:
            await asyncio.sleep(self._deps.sweep_every_s)
            for record in self._deps.view.all():
                where = Where(scope=Scope(record.tenant, record.id), expired_at=self._deps.clock())
                try:
                    await self._deps.index.erase(shard_of(record.live).name, where)
                except NotFound:
                    continue
                except InferbusError as error:
                    log.info("sweep_waits", collection=record.name, error=error.message)
            try:
                for shard in await self._deps.index.shards():
                    await drop_if_unused(self._deps.index, self._deps.book, shard)
            except InferbusError as error:
                log.info("sweep_waits", error=error.message)
