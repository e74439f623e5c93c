"""Bodies of /v1/vectors, as clients write and read them. An unknown field is refused, so that a typo is told."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.vector_manage import Backup, CollectionStats, StoredChunk
from inferbus.contracts.vector_search import DENSE, Filter, Hit, Rerank, SearchAnswer, SearchRequest
from inferbus.contracts.vectors import COSINE, Chunking, CollectionRecord, Document, DocumentFault, Field, IndexReport


class NewCollection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A collection to be made. `model` embeds its texts; without one documents come with vectors of `dimension`. `fields`
    of the payload may be filtered by; `hybrid` keeps texts for BM25 as well."""

    name: str
    model: str = ""
    dimension: int = 0
    distance: str = COSINE
    hybrid: bool = False
    fields: list[Field] = []
    chunking: Chunking = Chunking()
    retention_s: float = 0.0
    metadata: dict[str, str] = {}


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


def _empty() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class NewDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A document: its `text`, its `vector` (or `vector_b64`: little-endian 32-bit floats), or both; or `delete`, to take it
    out. `payload` is any JSON object and comes back as it is. Of two states of a document the higher `version` counts."""

    id: str
    text: str | None = None
    vector: list[float] | None = None
    vector_b64: str | None = None
    payload: msgspec.Raw = msgspec.field(default_factory=_empty)
    version: int = 0
    delete: bool = False
    expires_at: float = 0.0

    def document(self) -> Document:
        return Document(**{name: getattr(self, name) for name in self.__struct_fields__})


class NewDocuments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Documents, in the order in which they take effect. `wait_s` over 0: the answer says what became of them, if that is
    known in time."""

    documents: list[NewDocument]
    wait_s: float = 0.0


class WantedDocuments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Documents by id, or those a filter matches: one of the two."""

    ids: list[str] = []
    filter: Filter | None = None
    with_vector: bool = False


class Restore(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which backup to make a new collection of."""

    name: str
    file_id: str


class TenantErasure(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`confirm` is your organisation's name: everything of it goes."""

    confirm: str


class VectorSearch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to look for: one of `text`, `vector`, `vector_b64` and `like` (a document's id)."""

    text: str | None = None
    vector: list[float] | None = None
    vector_b64: str | None = None
    like: str | None = None
    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    mode: str = DENSE
    threshold: float | None = None
    exact: bool = False
    by_document: bool = False
    rerank: Rerank | None = None
    with_payload: bool = True
    with_text: bool = True
    with_vector: bool = False

    def request(self) -> SearchRequest:
        return SearchRequest(**{name: getattr(self, name) for name in self.__struct_fields__})


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


class AcceptedObject(msgspec.Struct, kw_only=True):
    """Documents that are accepted for good. What became of them is said where somebody waited for it (`indexed` is null
    otherwise); each fault is a dead letter as well."""

    object: str = "vector.accepted"
    accepted: int
    indexed: int | None = None
    deleted: int | None = None
    stale: int | None = None
    chunks: int | None = None
    tokens: int | None = None
    faults: list[DocumentFault] = []


class StoredDocuments(msgspec.Struct, kw_only=True):
    """Chunks as they are stored; go on with `after` the `next` of the page before."""

    object: str = "list"
    data: list[Any]
    next: str = ""


class SearchResults(msgspec.Struct, kw_only=True):
    """Hits, the best first; `took_ms` is the vector service's time."""

    object: str = "vector.results"
    collection: str
    data: list[Any]
    model: str
    tokens: int
    took_ms: float


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


def describe_report(accepted: int, report: IndexReport | None) -> AcceptedObject:
    if report is None:
        return AcceptedObject(accepted=accepted)
    return AcceptedObject(
        accepted=accepted, indexed=report.indexed, deleted=report.deleted, stale=report.stale, chunks=report.chunks,
        tokens=report.tokens, faults=report.faults,
    )  # fmt: skip


def describe_results(answer: SearchAnswer) -> SearchResults:
    hits: list[Hit] = answer.hits
    return SearchResults(
        collection=answer.collection, data=hits, model=answer.model, tokens=answer.tokens,
        took_ms=round(answer.took_s * 1000, 3),
    )  # fmt: skip


def describe_page(chunks: list[StoredChunk], next_: str) -> StoredDocuments:
    return StoredDocuments(data=list(chunks), next=next_)


def describe_backup(backup: Backup) -> BackupObject:
    return BackupObject(
        file_id=backup.file_id, collection=backup.collection.name, created_at=int(backup.created), chunks=backup.chunks,
        bytes=backup.bytes,
    )  # fmt: skip
