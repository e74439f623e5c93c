"""VectorStoresDoor: the door to vectors, and what vector stores need besides: their records, and files' texts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from inferbus.admission.identity import Identity
from inferbus.admission.quota.quota import Quota
from inferbus.bus import Bus
from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.files import FileRecord
from inferbus.contracts.vector_stores import StoreRecord, is_expired
from inferbus.contracts.vectors import CollectionRecord
from inferbus.errors import InferbusError, InvalidRequest, NotFound
from inferbus.files.book import FileBook
from inferbus.vectors.door import VectorsDoor
from inferbus_gateway.vector_store_book import VectorStoreBook
from inferbus_gateway.vector_store_files import StoreFiles

_LOOK_S = 600.0
log = structlog.get_logger()


class VectorStoresDoor(VectorsDoor):
    """One per gateway."""

    def __init__(self, bus: Bus, quota: Quota, files: FileBook) -> None:
        super().__init__(bus, quota)
        self._files = files
        self.book = VectorStoreBook(bus)
        self.store_files = StoreFiles(self, files, self.book)
        self._expiring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await super().start()
        self._expiring = asyncio.create_task(empty_for_ever(self.empty_expired), name="vector-stores-expiring")

    async def stop(self) -> None:
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)
        await self.store_files.stop()

    async def open_store(self, tenant: str, store: str, now: float) -> StoreRecord:
        """Give a store that may be used. Raises NotFound where there is none, or its time is over."""
        found = await self.book.store(tenant, store)
        if is_expired(found, now):
            raise NotFound(f"the vector store '{found.id}' has expired", param="vector_store_id")
        return found

    async def forget_stores(self, tenant: str) -> None:
        """Remove the records of a tenant's stores and of what is in them; its files stay files."""
        for file in await self.book.files(tenant):
            await self.book.forget(file)
        for store in await self.book.stores(tenant):
            await self.book.forget(store)

    async def empty_expired(self, now: float) -> int:
        """Remove what is in stores whose time is over, of all tenants; says in how many. Their records stay, as expired."""
        gone = [one for one in await self.book.all_stores() if is_expired(one, now) and not one.emptied]
        for store in gone:
            with contextlib.suppress(NotFound):  # somebody who got no further
                wanted = verbs.OneCollection(name=store.id)
                await self.manage(Identity(tenant=store.tenant), verbs.DELETE, wanted, CollectionRecord)
            for file in await self.book.files(store.tenant, store.id):
                await self.book.forget(file)
            with contextlib.suppress(NotFound):  # deleted meanwhile
                await self.book.change_store(
                    store.tenant, store.id, lambda held: msgspec.structs.replace(held, emptied=now)
                )
        return len(gone)

    async def files_of(self, tenant: str, file_id: str) -> FileRecord:
        """Find a file that is to be put into a store.

        Raises:
            InvalidRequest: there is none of this id.
        """
        try:
            return await self._files.get(tenant, file_id)
        except NotFound as exc:  # of a file, not of this path
            raise InvalidRequest(exc.message, param="file_id") from exc


async def empty_for_ever(empty: Callable[[float], Awaitable[int]]) -> None:
    """Look every now and then which stores' time is over. Several gateways may: doing it again changes nothing."""
    while True:
        await asyncio.sleep(_LOOK_S)
        try:
            if count := await empty(time.time()):
                log.info("expired_vector_stores_emptied", count=count)
        except InferbusError as error:
            log.info("expired_vector_stores_wait", error=error.message)
