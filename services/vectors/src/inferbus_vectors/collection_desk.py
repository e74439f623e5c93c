"""CollectionDesk: collections and aliases made, changed, shown and taken away. Everything is of the tenant that asks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.queued import count_by_subject
from inferbus.contracts.vector_manage import (
    ChangeCollection,
    Collections,
    CollectionStats,
    CreateCollection,
    Done,
    DropAlias,
    ListCollections,
    OneCollection,
    SetAlias,
)
from inferbus.contracts.vectors import (
    DELETING,
    DISTANCES,
    READY,
    AliasRecord,
    Chunking,
    CollectionRecord,
    Field,
    Placement,
)
from inferbus.errors import Conflict, InferbusError, InvalidRequest, NotFound, Transient
from inferbus_vectors.collection_book import CollectionBook, is_name, unknown, updated
from inferbus_vectors.domain.checking import check_chunking
from inferbus_vectors.domain.facets import check_fields
from inferbus_vectors.domain.points import Scope, Where, shard_of
from inferbus_vectors.domain.reindexing import written_places
from inferbus_vectors.ports import Embedder, Payer, VectorIndex

MAX_DIMENSION = 65_536
_MAX_FIELDS, _MAX_METADATA, _MAX_LIST = 64, 32, 1000
_PROBE = "dimension"
_PROBE_S = 60.0


class CollectionDesk:
    """Every method raises `DependencyDown` while the bus or the engine is away."""

    def __init__(
        self,
        bus: Bus,
        book: CollectionBook,
        index: VectorIndex,
        embedder: Embedder,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus = bus
        self._book = book
        self._index = index
        self._embedder = embedder
        self._clock = clock

    async def create(self, payer: Payer, asked: CreateCollection) -> CollectionRecord:
        """Make a collection.

        Raises:
            InvalidRequest: the message names the field. Conflict: the name is taken. NotFound: there is no such model.
        """
        check_name(asked.name, "name")
        check_parts(asked.fields, asked.chunking, asked.retention_s, asked.metadata)
        live = await self.placement(payer, asked.model, asked.dimension, asked.distance)
        await self._make_room(live, asked.fields)
        now = self._clock()
        record = CollectionRecord(
            id=secrets.token_hex(8), tenant=payer.tenant, name=asked.name, live=live, created=now, hybrid=asked.hybrid,
            fields=asked.fields, chunking=asked.chunking, retention_s=asked.retention_s, metadata=asked.metadata,
            key_id=payer.key_id, updated=now,
        )  # fmt: skip
        made = await self._book.create(record)
        await self._make_room(live, asked.fields)  # an empty shard that no collection was in may be gone by now
        return made

    async def placement(self, payer: Payer, model: str, dimension: int, distance: str) -> Placement:
        """Give the placement of a model, which is asked how long its vectors are.

        Raises:
            InvalidRequest: the message names the field. NotFound: there is no such model.
        """
        check_placement(dimension, distance)
        if not model:
            if not dimension:
                raise _bad("dimension", "is needed where there is no model")
            return Placement(model="", dimension=dimension, distance=distance)
        try:
            made = await self._embedder.embed(payer, model, [_PROBE], lane=routes.INTERACTIVE, deadline_s=_PROBE_S)
        except Transient:
            if not dimension:
                raise
            return Placement(model=model, dimension=dimension, distance=distance)  # it will be seen when it is back
        gives = len(made.vectors[0]) // 4
        if dimension not in (0, gives):
            raise _bad("dimension", f"the model `{model}` gives {gives} numbers, not {dimension}")
        return Placement(model=model, dimension=gives, distance=distance)

    async def change(self, payer: Payer, asked: ChangeCollection) -> CollectionRecord:
        """Change what may be changed.

        Raises:
            NotFound: there is none. InvalidRequest: the message names the field. Conflict: a field is of another type.
        """
        known = await self._ready(payer, asked.name)
        check_parts(
            asked.fields or [], asked.chunking or known.chunking, asked.retention_s or 0.0, asked.metadata or {}
        )
        fields = _joined(known.fields, asked.fields or [])
        for place in written_places(known):
            await self._make_room(place, fields)

        def decide(record: CollectionRecord) -> CollectionRecord:
            changes: dict[str, object] = {
                name: value
                for name in ("retention_s", "metadata", "chunking")
                if (value := getattr(asked, name)) is not None
            }
            return updated(record, self._clock(), fields=_joined(record.fields, fields), **changes)

        return await self._book.change(known, decide)

    async def get(self, payer: Payer, asked: OneCollection) -> CollectionRecord:
        return await self._book.collection(payer.tenant, asked.name)

    async def list(self, payer: Payer, asked: ListCollections) -> Collections:
        if not 1 <= asked.limit <= _MAX_LIST:
            raise _bad("limit", f"1 to {_MAX_LIST} is possible, not {asked.limit}")
        named = await self._book.of_tenant(payer.tenant)
        aliases = sorted((one for one in named if isinstance(one, AliasRecord)), key=lambda one: one.alias)
        found = sorted((one for one in named if isinstance(one, CollectionRecord)), key=lambda one: one.name)
        left = [one for one in found if one.name > asked.after]
        return Collections(collections=left[: asked.limit], aliases=aliases, has_more=len(left) > asked.limit)

    async def delete(self, payer: Payer, asked: OneCollection) -> CollectionRecord:
        """Have a collection removed: from here on nothing is found in it, and its name is free when all of it is gone.

        Raises:
            NotFound: there is none of that name (an alias is none).
        """
        known = await self._book.find(payer.tenant, asked.name)
        if not isinstance(known, CollectionRecord):
            raise NotFound(f"`{asked.name}` is an alias: delete the collection by its name", param="name")
        return await self._book.change(known, lambda record: updated(record, self._clock(), state=DELETING))

    async def alias(self, payer: Payer, asked: SetAlias) -> AliasRecord:
        """Point an alias at a collection. Raises NotFound, Conflict, InvalidRequest."""
        check_name(asked.alias, "alias")
        target = await self._ready(payer, asked.collection)
        record = AliasRecord(tenant=payer.tenant, alias=asked.alias, collection=target.name, updated=self._clock())
        return await self._book.point(record)

    async def unalias(self, payer: Payer, asked: DropAlias) -> Done:
        found = await self._book.find(payer.tenant, asked.alias)
        if not isinstance(found, AliasRecord):
            raise NotFound(f"`{asked.alias}` is a collection, and no alias", param="alias")
        await self._book.forget(found)
        return Done()

    async def stats(self, payer: Payer, asked: OneCollection) -> CollectionStats:
        record = await self._book.collection(payer.tenant, asked.name)
        shard = shard_of(record.live).name
        scope = Scope(record.tenant, record.id)
        chunks = await self._index.count(shard, Where(scope=scope))
        documents = await self._index.count(shard, Where(scope=scope, heads_only=True))
        whole = await self._index.stats(shard)
        return CollectionStats(
            collection=record, documents=documents, chunks=chunks, waiting=await self._waiting(record), shard=shard,
            shard_points=whole.points, shard_indexed=whole.indexed, bytes=whole.bytes,
        )  # fmt: skip

    async def _waiting(self, record: CollectionRecord) -> int:
        """Count the messages in the queue for a collection, under its name and its aliases."""
        subject = routes.vectors_index(record.tenant, "*")
        subjects = await count_by_subject(self._bus, routes.STREAM_VECTORS, subject)
        named = await self._book.of_tenant(record.tenant)
        names = {one.alias for one in named if isinstance(one, AliasRecord) and one.collection == record.name}
        return sum(subjects.get(routes.vectors_index(record.tenant, name), 0) for name in {record.name, *names})

    async def _ready(self, payer: Payer, name: str) -> CollectionRecord:
        record = await self._book.collection(payer.tenant, name)
        if record.state != READY:
            raise unknown(name)
        return record

    async def _make_room(self, place: Placement, fields: Sequence[Field]) -> None:
        spec = shard_of(place)
        await self._index.ensure(spec)
        await self._index.index_fields(spec.name, fields)


def check_name(name: str, param: str) -> None:
    """Refuse what cannot be a collection's name.

    Raises:
        InvalidRequest: letters, digits, _ and - are what a name is.
    """
    if not is_name(name):
        raise _bad(param, f"{name[:80]!r}: a name is letters, digits, _ and -, 64 at most")


def check_placement(dimension: int, distance: str) -> None:
    """Refuse vectors that could not be. Dimension 0: that is not known.

    Raises:
        InvalidRequest: the message names the field.
    """
    if distance not in DISTANCES:
        raise _bad("distance", f"{distance[:40]!r} is none of {', '.join(DISTANCES)}")
    if not 0 <= dimension <= MAX_DIMENSION:
        raise _bad("dimension", f"1 to {MAX_DIMENSION} is possible, not {dimension}")


def check_parts(fields: Sequence[Field], chunking: Chunking, retention_s: float, metadata: dict[str, str]) -> None:
    """Refuse what a collection cannot have.

    Raises:
        InvalidRequest: the message names the field.
    """
    if len(fields) > _MAX_FIELDS:
        raise _bad("fields", f"{len(fields)} fields, {_MAX_FIELDS} are the most")
    check_fields(fields)
    check_chunking(chunking)
    if not 0.0 <= retention_s < float("inf"):
        raise _bad("retention_s", "is not negative")
    if len(metadata) > _MAX_METADATA or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise _bad("metadata", f"{_MAX_METADATA} entries at most, keys of 64 characters, values of 512")


def _joined(known: Sequence[Field], more: Sequence[Field]) -> list[Field]:
    types = {field.name: field.type for field in known}
    for field in more:
        if types.get(field.name, field.type) != field.type:
            raise Conflict(f"the field `{field.name}` is {types[field.name]}, and stays that", param="fields")
    return [*known, *(field for field in more if field.name not in types)]


def _bad(where: str, why: str) -> InferbusError:
    return InvalidRequest(f"{where}: {why}", param=where)
