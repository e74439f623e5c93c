"""CollectionBook: the bucket `collections`. A name is a collection's or an alias's, is taken once, and is changed by
compare-and-set, so that nobody's change is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.codec import from_json, to_json
from inferbus.contracts.vectors import DELETING, AliasRecord, CollectionRecord, Named
from inferbus.errors import Conflict, NotFound

_TRIES = 50
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
N = TypeVar("N", CollectionRecord, AliasRecord)


class CollectionBook:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(self, record: N) -> N:
        """Note a collection or an alias: from here on it is there.

        Raises:
            Conflict: the name is taken.
        """
        key = key_of(record)
        held = await self._read(key)
        if held.data is None and await self._write(key, record, held.revision):
            return record
        named = named_from(held.data) if held.data is not None else None
        going = isinstance(named, CollectionRecord) and named.state == DELETING
        why = "is being removed still" if going else "is taken already"
        raise Conflict(f"the name `{key.partition('.')[2]}` {why}", param="name")

    async def find(self, tenant: str, name: str) -> Named:
        """Give what a name stands for: a collection or an alias.

        Raises:
            NotFound: nothing.
        """
        if not is_name(name):  # a wildcard would find anything
            raise unknown(name)
        held = await self._read(routes.tenant_key(tenant, name))
        if held.data is None:
            raise unknown(name)
        return named_from(held.data)

    async def collection(self, tenant: str, name: str) -> CollectionRecord:
        """Give a collection by its own name or an alias.

        Raises:
            NotFound: there is none.
        """
        found = await self.find(tenant, name)
        if isinstance(found, AliasRecord):
            found = await self.find(tenant, found.collection)
        if not isinstance(found, CollectionRecord):
            raise unknown(name)
        return found

    async def change(
        self, known: CollectionRecord, decide: Callable[[CollectionRecord], CollectionRecord]
    ) -> CollectionRecord:
        """Change a collection, again if somebody else was first. `decide` gives the record as it is to be; what it
        raises is raised.

        Raises:
            NotFound: it is gone, or another one has its name. Conflict: others change it all the time.
        """
        key = key_of(known)
        for _ in range(_TRIES):
            held = await self._read(key)
            now = named_from(held.data) if held.data is not None else None
            if not isinstance(now, CollectionRecord) or now.id != known.id:
                raise unknown(known.name)
            wanted = decide(now)
            if wanted == now or await self._write(key, wanted, held.revision):
                return wanted
        raise Conflict(f"the collection `{known.name}` is being changed")

    async def point(self, alias: AliasRecord) -> AliasRecord:
        """Make an alias, or point one elsewhere.

        Raises:
            Conflict: a collection has that name, or others change it all the time.
        """
        key = key_of(alias)
        for _ in range(_TRIES):
            held = await self._read(key)
            if held.data is not None and isinstance(named_from(held.data), CollectionRecord):
                raise Conflict(f"`{alias.alias}` is the name of a collection", param="alias")
            if await self._write(key, alias, held.revision):
                return alias
        raise Conflict(f"the alias `{alias.alias}` is being changed", param="alias")

    async def forget(self, record: Named) -> None:
        """Remove a collection (this very one) or an alias; one that is not there stays so."""
        key = key_of(record)
        for _ in range(_TRIES):
            held = await self._read(key)
            now = named_from(held.data) if held.data is not None else None
            if now is None or type(now) is not type(record):
                return
            if isinstance(now, CollectionRecord) and isinstance(record, CollectionRecord) and now.id != record.id:
                return
            if await revisions.write(self._bus, routes.KV_COLLECTIONS, key, None, held.revision):
                return
        raise Conflict(f"`{key}` is being changed")

    async def of_tenant(self, tenant: str) -> list[Named]:
        """Give all a tenant has, in no order."""
        found = await revisions.read_all(self._bus, routes.KV_COLLECTIONS, routes.tenant_key(tenant, ""))
        return [named_from(data) for data in found]

    async def of_all(self) -> list[Named]:
        """Give all there is, of every tenant."""
        return [named_from(data) for data in await revisions.read_all(self._bus, routes.KV_COLLECTIONS)]

    async def _read(self, key: str) -> revisions.Held:
        return await revisions.read(self._bus, routes.KV_COLLECTIONS, key)

    async def _write(self, key: str, record: Named, revision: int) -> bool:
        return await revisions.write(self._bus, routes.KV_COLLECTIONS, key, to_json(record), revision)


def is_name(name: str) -> bool:
    """Say whether something can be a collection's name, or an alias's."""
    return _NAME.fullmatch(name) is not None


def key_of(record: Named) -> str:
    name = record.alias if isinstance(record, AliasRecord) else record.name
    return routes.tenant_key(record.tenant, name)


def named_from(data: bytes) -> Named:
    return from_json(data, Named, what="collection")  # type: ignore[arg-type]  # a union, which msgspec takes


def unknown(name: str) -> NotFound:
    return NotFound(f"there is no collection `{name[:80]}`", param="collection")


def updated(record: CollectionRecord, at: float, **changes: object) -> CollectionRecord:
    """Give a record with changes and their time."""
    return msgspec.structs.replace(record, updated=at, **changes)
