"""VectorStoreBook: stores and their files in the bucket `vector_stores`. It knows the bucket and nothing of vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.vector_stores import InStores, StoreFile, StoreRecord
from inferbus.errors import Conflict, NotFound

_TRIES = 8
_ANY: Any = InStores  # a union, which msgspec takes for a type


class VectorStoreBook:
    """Of all tenants; whoever asks, asks for one tenant's."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def store(self, tenant: str, store: str) -> StoreRecord:
        """Raises NotFound where this tenant has none of this id. DependencyDown: the bus does not answer."""
        found = (await self._held(_key(tenant, store)))[0]
        if not isinstance(found, StoreRecord):
            raise NotFound(f"No vector store found with id '{store[:80]}'.", param="vector_store_id")
        return found

    async def file(self, tenant: str, store: str, file_id: str) -> StoreFile:
        """Raises NotFound where it is not in the store."""
        found = (await self._held(_key(tenant, store, file_id)))[0]
        if not isinstance(found, StoreFile):
            raise NotFound(f"No file '{file_id[:80]}' in the vector store '{store[:80]}'.", param="file_id")
        return found

    async def stores(self, tenant: str) -> list[StoreRecord]:
        """Give a tenant's stores, the newest first."""
        found = await self._below(f"{tenant}.")
        return sorted((one for one in found if isinstance(one, StoreRecord)), key=_age)

    async def all_stores(self) -> list[StoreRecord]:
        """Give the stores of all tenants."""
        return [one for one in await self._below("") if isinstance(one, StoreRecord)]

    async def files(self, tenant: str, store: str = "") -> list[StoreFile]:
        """Give the files of a store (of all stores), the newest first."""
        found = await self._below(f"{tenant}.{store}." if store else f"{tenant}.")
        return sorted((one for one in found if isinstance(one, StoreFile)), key=_age)

    async def add(self, record: StoreRecord | StoreFile) -> bool:
        """Write what is not there yet; False where it is."""
        key = _key_of(record)
        held, revision = await self._held(key)
        if held is not None:
            return False
        return await revisions.write(self._bus, routes.KV_VECTOR_STORES, key, to_json(record), revision)

    async def change_store(self, tenant: str, store: str, change: Callable[[StoreRecord], StoreRecord]) -> StoreRecord:
        """Change a store by compare-and-set. Raises as `store`; Conflict: others change it all the time."""
        made = await self._change(_key(tenant, store), StoreRecord, change)
        return made if isinstance(made, StoreRecord) else await self.store(tenant, store)

    async def change_file(self, file: StoreFile, change: Callable[[StoreFile], StoreFile | None]) -> StoreFile | None:
        """Change a file of a store by compare-and-set; None where it is gone, or `change` gave that: it stays then."""
        made = await self._change(_key_of(file), StoreFile, change)
        return made if isinstance(made, StoreFile) else None

    async def forget(self, record: StoreRecord | StoreFile) -> None:
        for _ in range(_TRIES):
            _, revision = await self._held(_key_of(record))
            if await revisions.write(self._bus, routes.KV_VECTOR_STORES, _key_of(record), None, revision):
                return
        raise Conflict(f"{_key_of(record)} is being changed by others; ask again")

    async def _change(self, key: str, type_: type, change: Callable[[Any], Any]) -> StoreRecord | StoreFile | None:
        for _ in range(_TRIES):
            held, revision = await self._held(key)
            made: StoreRecord | StoreFile | None = change(held) if isinstance(held, type_) else None
            if made is None:
                return None
            if await revisions.write(self._bus, routes.KV_VECTOR_STORES, key, to_json(made), revision):
                return made
        raise Conflict("it is being changed by others; ask again")

    async def _held(self, key: str) -> tuple[StoreRecord | StoreFile | None, int]:
        held = await revisions.read(self._bus, routes.KV_VECTOR_STORES, key)
        return (None if held.data is None else from_json(held.data, _ANY, what=key)), held.revision

    async def _below(self, prefix: str) -> list[StoreRecord | StoreFile]:
        found = await revisions.read_all(self._bus, routes.KV_VECTOR_STORES, prefix)
        return [from_json(data, _ANY, what=prefix) for data in found]


def _key(tenant: str, *names: str) -> str:
    return ".".join((tenant, *(routes.token_safe(name) for name in names)))


def _key_of(record: StoreRecord | StoreFile) -> str:
    if isinstance(record, StoreRecord):
        return _key(record.tenant, record.id)
    return _key(record.tenant, record.store, record.file_id)


def _age(record: StoreRecord | StoreFile) -> tuple[float, str]:
    return -record.created, record.id if isinstance(record, StoreRecord) else record.file_id
