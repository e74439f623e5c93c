"""ContentDesk: what is in a collection, read and removed. Scope is the tenant that asks and the collection's id, always."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.queued import purge
from inferbus.contracts.vector_manage import Documents, Erase, Erased, EraseTenant, Page, Scroll, StoredChunk
from inferbus.contracts.vector_search import Filter
from inferbus.contracts.vectors import DELETING, READY, CollectionRecord
from inferbus.errors import InferbusError, InvalidRequest, NotFound
from inferbus_vectors.collection_book import CollectionBook, unknown, updated
from inferbus_vectors.domain.facets import resolve
from inferbus_vectors.domain.points import Found, FoundPage, Scope, Where, shard_of
from inferbus_vectors.domain.reindexing import written_places
from inferbus_vectors.erasing import erase_documents
from inferbus_vectors.leftovers import clear_leftovers
from inferbus_vectors.ports import Payer, VectorIndex

_MAX_IDS, _MAX_PAGE = 1000, 1000


class ContentDesk:
    """`settle_s`: how long after a collection was closed a document may still be on its way into it."""

    def __init__(
        self,
        bus: Bus,
        book: CollectionBook,
        index: VectorIndex,
        *,
        settle_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._book = book
        self._index = index
        self._settle_s = settle_s
        self._clock = clock

    async def retrieve(self, payer: Payer, asked: Documents) -> Page:
        """Give the chunks of some documents; of those that are not there, nothing."""
        if not 1 <= len(asked.ids) <= _MAX_IDS:
            raise _bad("ids", f"1 to {_MAX_IDS} are possible, not {len(asked.ids)}")
        record = await self._ready(payer, asked.name)
        where = Where(scope=Scope(payer.tenant, record.id), documents=asked.ids)
        found, after, is_more = list[Found](), "", True
        while is_more:
            page = await self._read(record, where, after, _MAX_PAGE, with_vector=asked.with_vector)
            found += page.found
            after, is_more = page.next, bool(page.next)
        places = {name: at for at, name in enumerate(asked.ids)}
        found.sort(key=lambda one: (places.get(one.id, 0), one.chunk))
        return Page(chunks=[_stored(one) for one in found])

    async def scroll(self, payer: Payer, asked: Scroll) -> Page:
        if not 1 <= asked.limit <= _MAX_PAGE:
            raise _bad("limit", f"1 to {_MAX_PAGE} is possible, not {asked.limit}")
        record = await self._ready(payer, asked.name)
        where = Where(scope=Scope(payer.tenant, record.id), filter=_filter(asked.filter, record))
        page = await self._read(record, where, asked.after, asked.limit, with_vector=asked.with_vector)
        return Page(chunks=[_stored(one) for one in page.found], next=page.next)

    async def erase(self, payer: Payer, asked: Erase) -> Erased:
        """Remove documents for good, wherever the collection has them; older states that come later stay out."""
        if bool(asked.ids) == (asked.filter is not None):
            raise _bad("ids", "ids or a filter, one of the two")
        if len(asked.ids) > _MAX_IDS:
            raise _bad("ids", f"{_MAX_IDS} at most, not {len(asked.ids)}")
        record = await self._ready(payer, asked.name)
        where = Where(
            scope=Scope(payer.tenant, record.id), documents=asked.ids or None, filter=_filter(asked.filter, record)
        )
        shards = [shard_of(place).name for place in written_places(record)]
        return Erased(chunks=await erase_documents(self._index, shards, where, now=self._clock()))

    async def erase_tenant(self, payer: Payer, asked: EraseTenant) -> Erased:
        """Remove all a tenant has, what waits in the queue and what became dead letters included; not its files, backups
        among them. Asking again goes on with what an error left."""
        if asked.confirm != payer.tenant:
            raise _bad("confirm", "is the name of the tenant whose documents are all to go")
        everything = Where(scope=Scope(payer.tenant))
        chunks = sum([await self._counted(shard, everything) for shard in await self._index.shards()])
        named = await self._book.of_tenant(payer.tenant)
        for one in named:
            if isinstance(one, CollectionRecord):
                with contextlib.suppress(NotFound):  # it was on its way out
                    await self._book.change(one, lambda record: updated(record, self._clock(), state=DELETING))
        await purge(self._bus, routes.STREAM_VECTORS, routes.vectors_index(payer.tenant, "*"))
        for wait_s in (0.0, self._settle_s):
            await asyncio.sleep(wait_s)
            for shard in await self._index.shards():
                with contextlib.suppress(NotFound):  # it was dropped meanwhile
                    await self._index.erase(shard, everything)
        for one in named:
            await self._book.forget(one)
        await clear_leftovers(self._bus, payer.tenant)
        return Erased(chunks=chunks)

    async def _counted(self, shard: str, where: Where) -> int:
        try:
            return await self._index.count(shard, where)
        except NotFound:
            return 0

    async def _read(
        self, record: CollectionRecord, where: Where, after: str, limit: int, *, with_vector: bool
    ) -> FoundPage:
        return await self._index.read(
            shard_of(record.live).name, where, after=after, limit=limit, with_vector=with_vector
        )

    async def _ready(self, payer: Payer, name: str) -> CollectionRecord:
        record = await self._book.collection(payer.tenant, name)
        if record.state != READY:
            raise unknown(name)
        return record


def _filter(said: Filter | None, record: CollectionRecord) -> Filter | None:
    return resolve(said, record.fields) if said is not None else None


def _stored(one: Found) -> StoredChunk:
    return StoredChunk(
        id=one.id, chunk=one.chunk, version=one.version, text=one.text, payload=msgspec.Raw(one.payload),
        vector_b64=base64.b64encode(one.vector).decode() if one.vector is not None else None,
    )  # fmt: skip


def _bad(where: str, why: str) -> InferbusError:
    return InvalidRequest(f"{where}: {why}", param=where)
