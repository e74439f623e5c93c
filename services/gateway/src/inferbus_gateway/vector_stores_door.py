"""VectorStoresDoor: the door to vectors, and what vector stores need besides: their records, and files' texts."""

from __future__ import annotations

from inferbus.admission.quota.quota import Quota
from inferbus.bus import Bus
from inferbus.contracts.files import FileRecord
from inferbus.errors import InvalidRequest, NotFound
from inferbus.files.book import FileBook
from inferbus.vectors.door import VectorsDoor
from inferbus_gateway.vector_store_book import VectorStoreBook
from inferbus_gateway.vector_store_files import StoreFiles


class VectorStoresDoor(VectorsDoor):
    """One per gateway."""

    def __init__(self, bus: Bus, quota: Quota, files: FileBook) -> None:
        super().__init__(bus, quota)
        self._files = files
        self.book = VectorStoreBook(bus)
        self.store_files = StoreFiles(self, files, self.book)

    async def stop(self) -> None:
        await self.store_files.stop()

    async def files_of(self, tenant: str, file_id: str) -> FileRecord:
        """Find a file that is to be put into a store.

        Raises:
            InvalidRequest: there is none of this id.
        """
        try:
            return await self._files.get(tenant, file_id)
        except NotFound as exc:  # of a file, not of this path
            raise InvalidRequest(exc.message, param="file_id") from exc
