"""Bodies of /v1/vectors about collections, as clients write and read them; those of documents and searches are
`inferbus.vectors.bodies`. An unknown field is refused, so that a typo is told."""

from __future__ import annotations

import msgspec

from inferbus.contracts.vector_manage import (
    Backup,
    Backups,
    CollectionStats,
    CreateCollection,
    EraseTenant,
    RestoreBackup,
    StoredChunk,
)
from inferbus.contracts.vector_search import Filter
from inferbus.contracts.vectors import Chunking, CollectionRecord, Field


class NewCollection(CreateCollection, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A collection to be made. `model` embeds its texts; without one documents come with vectors of `dimension`. `fields`
    of the payload may be filtered by; `hybrid` keeps texts for BM25 as well."""


class CollectionChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is not said stays. Fields can only be added."""

    fields: list[Field] | None = None
    retention_s: float | None = None
    metadata: dict[str, str] | None = None
    chunking: Chunking | None = None


class NewAlias(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    collection: str


class NewModel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a collection is to be re-indexed to."""

    model: str
    dimension: int = 0
    distance: str = ""


class WantedDocuments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Documents by id, or those a filter matches: one of the two."""

    ids: list[str] = []
    filter: Filter | None = None
    with_vector: bool = False


class Restore(RestoreBackup, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which backup to make a new collection of."""


class TenantErasure(EraseTenant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`confirm` is your organisation's name: everything of it goes."""


class ReindexingObject(msgspec.Struct, kw_only=True):
    """How far re-indexing is, in chunks."""

    model: str
    dimension: int
    state: str
    done: int
    total: int
    failed: int
    started_at: int
    error: str

    @property
    def is_over(self) -> bool:
        """Whether it is known which model serves. What the other one has is kept a moment longer, and goes by itself."""
        return self.state in ("swapped", "dropping", "done", "failed", "cancelled")


class CollectionObject(msgspec.Struct, kw_only=True):
    """`reindexing` is there once a re-indexing was begun, and tells how it ended."""

    object: str = "vector.collection"
    name: str
    model: str
    dimension: int
    distance: str
    generation: int
    hybrid: bool
    fields: list[Field]
    chunking: Chunking
    retention_s: float
    metadata: dict[str, str]
    state: str
    created_at: int
    reindexing: ReindexingObject | None = None


class CollectionList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[CollectionObject]
    aliases: dict[str, str]
    has_more: bool = False


class AliasObject(msgspec.Struct, kw_only=True):
    object: str = "vector.alias"
    alias: str
    collection: str


class StatsObject(msgspec.Struct, kw_only=True):
    """`waiting` messages are in the queue. What is said of the shard counts for all collections in it."""

    object: str = "vector.stats"
    collection: CollectionObject
    documents: int
    chunks: int
    waiting: int
    shard: str
    shard_points: int
    shard_indexed: int
    bytes: int


class StoredDocuments(msgspec.Struct, kw_only=True):
    """Chunks as they are stored; go on with `after` the `next` of the page before."""

    object: str = "list"
    data: list[StoredChunk]
    next: str = ""


class ErasedObject(msgspec.Struct, kw_only=True):
    object: str = "vector.erased"
    chunks: int


class BackupObject(msgspec.Struct, kw_only=True):
    """A backup, which is a file of /v1/files."""

    object: str = "vector.backup"
    file_id: str
    collection: str
    created_at: int
    chunks: int
    bytes: int


class BackupFileObject(msgspec.Struct, kw_only=True):
    """A backup that is there; `collection` is the name it had, `expires_at` null: it stays."""

    object: str = "vector.backup"
    file_id: str
    collection: str
    created_at: int
    bytes: int
    expires_at: int | None = None


class BackupList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[BackupFileObject]
    has_more: bool = False


class CollectionDeleted(msgspec.Struct, kw_only=True):
    name: str
    deleted: bool = True


def describe_collection(record: CollectionRecord) -> CollectionObject:
    """Give a collection the form it has for clients."""
    live, moving = record.live, record.reindexing
    return CollectionObject(
        name=record.name, model=live.model, dimension=live.dimension, distance=live.distance, generation=live.generation,
        hybrid=record.hybrid, fields=record.fields, chunking=record.chunking, retention_s=record.retention_s,
        metadata=record.metadata, state=record.state, created_at=int(record.created),
        reindexing=None if moving is None else ReindexingObject(
            model=moving.to.model, dimension=moving.to.dimension, state=moving.state, done=moving.done, total=moving.total,
            failed=moving.failed, started_at=int(moving.started), error=moving.error,
        ),
    )  # fmt: skip


def describe_stats(stats: CollectionStats) -> StatsObject:
    return StatsObject(
        collection=describe_collection(stats.collection), documents=stats.documents, chunks=stats.chunks,
        waiting=stats.waiting, shard=stats.shard, shard_points=stats.shard_points, shard_indexed=stats.shard_indexed,
        bytes=stats.bytes,
    )  # fmt: skip


def describe_page(chunks: list[StoredChunk], next_: str) -> StoredDocuments:
    return StoredDocuments(data=chunks, next=next_)


def describe_backup(backup: Backup) -> BackupObject:
    return BackupObject(
        file_id=backup.file_id, collection=backup.collection.name, created_at=int(backup.created), chunks=backup.chunks,
        bytes=backup.bytes,
    )  # fmt: skip


def describe_backups(found: Backups) -> BackupList:
    data = [
        BackupFileObject(
            file_id=one.file_id, collection=one.collection, created_at=int(one.created), bytes=one.bytes,
            expires_at=int(one.expires_at) or None,
        )
        for one in found.backups
    ]  # fmt: skip
    return BackupList(data=data, has_more=found.has_more)
