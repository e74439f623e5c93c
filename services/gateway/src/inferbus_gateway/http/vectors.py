"""/v1/vectors/collections: collections, their aliases, re-indexing, statistics, backups. `vector_documents` has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import delete, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.vector_manage import Backup, Backups, Collections, CollectionStats, Done, Erased
from inferbus.contracts.vectors import AliasRecord, CollectionRecord
from inferbus.errors import InvalidRequest
from inferbus.vectors.door import checked_name
from inferbus.vectors.shapes import (
    AliasObject,
    BackupList,
    BackupObject,
    CollectionChange,
    CollectionDeleted,
    CollectionList,
    CollectionObject,
    ErasedObject,
    NewAlias,
    NewCollection,
    NewModel,
    Restore,
    StatsObject,
    TenantErasure,
    describe_backup,
    describe_backups,
    describe_collection,
    describe_stats,
)
from inferbus_gateway.http.admin_request import read_wanted
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.vector_operations import VectorOperation, open_vectors, vector_operation

ROOT = "/v1/vectors"
_ALL = f"{ROOT}/collections"
_ONE = f"{_ALL}/{{name:str}}"
_PAGE, _MAX_PAGE = 100, 1000
RESERVED = ("collections", "aliases", "watchlists", "erase", "backups")
"""Names that would be hidden by paths."""


def build_vectors(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    return [*_build_collections(deps), *_build_aliases(deps), *_build_care(deps)]


def _build_collections(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(_ALL, status_code=200, summary="Make a collection", operation_class=vector_operation(NewCollection))
    async def create_collection(request: AnyRequest) -> CollectionObject:
        async with open_vectors(deps, request) as (identity, door):
            new = await read_wanted(request, NewCollection)
            if new.name in RESERVED or new.name.startswith("vs_"):
                raise InvalidRequest(f"name {new.name!r} is taken by a path or a vector store", param="name")
            checked_name(new.name)
            return describe_collection(await door.manage(identity, verbs.CREATE, new, CollectionRecord))

    @get(_ALL, summary="List your organisation's collections, by name", operation_class=VectorOperation)
    async def list_collections(
        request: AnyRequest,
        after: Annotated[str, QueryParameter(description="Go on after this name.")] = "",
        limit: Annotated[int, QueryParameter(description="At most so many: 1 to 1000.")] = _PAGE,
    ) -> CollectionList:
        async with open_vectors(deps, request) as (identity, door):
            if not 1 <= limit <= _MAX_PAGE:
                raise InvalidRequest(f"limit is {limit}; it must be from 1 to {_MAX_PAGE}", param="limit")
            wanted = verbs.ListCollections(after=after, limit=limit)
            found = await door.manage(identity, verbs.LIST, wanted, Collections)
            aliases = {one.alias: one.collection for one in found.aliases}
            data = [describe_collection(one) for one in found.collections]
            return CollectionList(data=data, aliases=aliases, has_more=found.has_more)

    @get(_ONE, summary="Describe a collection, by its name or an alias", operation_class=VectorOperation)
    async def retrieve_collection(request: AnyRequest, name: FromPath[str]) -> CollectionObject:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.OneCollection(name=checked_name(name))
            return describe_collection(await door.manage(identity, verbs.GET, wanted, CollectionRecord))

    @patch(
        _ONE, summary="Change a collection: more fields, retention, chunking, metadata",
        operation_class=vector_operation(CollectionChange),
    )  # fmt: skip
    async def change_collection(request: AnyRequest, name: FromPath[str]) -> CollectionObject:
        async with open_vectors(deps, request) as (identity, door):
            change = await read_wanted(request, CollectionChange)
            wanted = verbs.ChangeCollection(name=checked_name(name), **msgspec.structs.asdict(change))
            return describe_collection(await door.manage(identity, verbs.CHANGE, wanted, CollectionRecord))

    @delete(_ONE, status_code=200, summary="Delete a collection and all of it", operation_class=VectorOperation)
    async def delete_collection(request: AnyRequest, name: FromPath[str]) -> CollectionDeleted:
        async with open_vectors(deps, request) as (identity, door):
            await door.manage(identity, verbs.DELETE, verbs.OneCollection(name=checked_name(name)), CollectionRecord)
            return CollectionDeleted(name=name)

    return create_collection, list_collections, retrieve_collection, change_collection, delete_collection


def _build_aliases(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    path = f"{ROOT}/aliases/{{alias:str}}"

    @put(path, summary="Point an alias at a collection, at once", operation_class=vector_operation(NewAlias))
    async def set_alias(request: AnyRequest, alias: FromPath[str]) -> AliasObject:
        async with open_vectors(deps, request) as (identity, door):
            new = await read_wanted(request, NewAlias)
            if alias in RESERVED:
                raise InvalidRequest(f"alias {alias!r} is taken by a path", param="alias")
            wanted = verbs.SetAlias(alias=checked_name(alias), collection=checked_name(new.collection))
            record = await door.manage(identity, verbs.ALIAS, wanted, AliasRecord)
            return AliasObject(alias=record.alias, collection=record.collection)

    @delete(path, status_code=200, summary="Drop an alias", operation_class=VectorOperation)
    async def drop_alias(request: AnyRequest, alias: FromPath[str]) -> CollectionDeleted:
        async with open_vectors(deps, request) as (identity, door):
            await door.manage(identity, verbs.UNALIAS, verbs.DropAlias(alias=checked_name(alias)), Done)
            return CollectionDeleted(name=alias)

    return set_alias, drop_alias


def _build_care(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(f"{_ONE}/stats", summary="How much is in a collection, and waits for it", operation_class=VectorOperation)
    async def collection_stats(request: AnyRequest, name: FromPath[str]) -> StatsObject:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.OneCollection(name=checked_name(name))
            return describe_stats(await door.manage(identity, verbs.STATS, wanted, CollectionStats))

    @post(
        f"{_ONE}/reindex", status_code=200, summary="Move a collection to another model, while it is used",
        operation_class=vector_operation(NewModel),
    )  # fmt: skip
    async def reindex_collection(request: AnyRequest, name: FromPath[str]) -> CollectionObject:
        async with open_vectors(deps, request) as (identity, door):
            new = await read_wanted(request, NewModel)
            wanted = verbs.StartReindexing(name=checked_name(name), **msgspec.structs.asdict(new))
            return describe_collection(await door.manage(identity, verbs.REINDEX, wanted, CollectionRecord))

    @delete(
        f"{_ONE}/reindex", status_code=200, summary="End a re-indexing; the collection stays as it was",
        operation_class=VectorOperation,
    )  # fmt: skip
    async def end_reindexing(request: AnyRequest, name: FromPath[str]) -> CollectionObject:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.OneCollection(name=checked_name(name))
            return describe_collection(await door.manage(identity, verbs.END_REINDEX, wanted, CollectionRecord))

    @post(f"{_ONE}/backup", status_code=200, summary="Write a collection to a file", operation_class=VectorOperation)
    async def back_up(request: AnyRequest, name: FromPath[str]) -> BackupObject:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.MakeBackup(name=checked_name(name))
            return describe_backup(await door.manage(identity, verbs.BACKUP, wanted, Backup))

    @get(f"{ROOT}/backups", summary="Backups that are there, the newest first", operation_class=VectorOperation)
    async def list_backups(
        request: AnyRequest,
        collection: Annotated[str, QueryParameter(description="Only those of a collection of this name.")] = "",
        after: Annotated[str, QueryParameter(description="Go on after this file's id.")] = "",
        limit: Annotated[int, QueryParameter(description="At most so many: 1 to 1000.")] = _PAGE,
    ) -> BackupList:
        async with open_vectors(deps, request) as (identity, door):
            wanted = verbs.ListBackups(name=collection, after=after, limit=limit)
            return describe_backups(await door.manage(identity, verbs.BACKUPS, wanted, Backups))

    @post(
        f"{ROOT}/collections/restore", status_code=200, summary="Make a new collection of a backup",
        operation_class=vector_operation(Restore),
    )  # fmt: skip
    async def restore(request: AnyRequest) -> CollectionObject:
        async with open_vectors(deps, request) as (identity, door):
            new = await read_wanted(request, Restore)
            checked_name(new.name)
            return describe_collection(await door.manage(identity, verbs.RESTORE, new, CollectionRecord))

    @post(
        f"{ROOT}/erase", status_code=200, summary="Erase everything of your organisation's",
        operation_class=vector_operation(TenantErasure),
    )  # fmt: skip
    async def erase_tenant(request: AnyRequest) -> ErasedObject:
        async with open_vectors(deps, request) as (identity, door):
            wanted = await read_wanted(request, TenantErasure)
            erased = await door.manage(identity, verbs.ERASE_TENANT, wanted, Erased)
            await door.forget_stores(identity.tenant)
            return ErasedObject(chunks=erased.chunks)

    return collection_stats, reindex_collection, end_reindexing, back_up, list_backups, restore, erase_tenant
