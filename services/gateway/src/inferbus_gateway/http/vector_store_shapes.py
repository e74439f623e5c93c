"""Vector stores as the OpenAI API describes them. Ours besides: `model` at creation, the embedding model."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.vector_stores import (
    CANCELLED,
    COMPLETED,
    DAY_S,
    FAILED,
    IN_PROGRESS,
    Attribute,
    StoreFile,
    StoreRecord,
    is_expired,
)
from inferbus.errors import InvalidRequest
from inferbus_gateway.http.vector_store_chunking import ChunkingStrategy, described_chunking

EXPIRED = "expired"
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512


class ExpiresAfter(msgspec.Struct, kw_only=True):
    """So many days after it was last used."""

    anchor: str = "last_active_at"
    days: int = 0


class NewStore(msgspec.Struct, kw_only=True):
    """A vector store. `model` (ours): the embedding model; the first one this key may use where none is named."""

    name: str | None = None
    description: str | None = None
    file_ids: list[str] = []
    metadata: dict[str, str] | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingStrategy | None = None
    model: str = ""


class StoreChange(msgspec.Struct, kw_only=True):
    name: str | None = None
    metadata: dict[str, str] | None = None
    expires_after: ExpiresAfter | None = None


class NewStoreFile(msgspec.Struct, kw_only=True):
    """A file of /v1/files to be put in. `attributes` may be filtered by."""

    file_id: str
    attributes: dict[str, Attribute] | None = None
    chunking_strategy: ChunkingStrategy | None = None


class StoreFileChange(msgspec.Struct, kw_only=True):
    attributes: dict[str, Attribute] | None = None


class NewFileBatch(msgspec.Struct, kw_only=True):
    """Files to be put in at once: `file_ids` with the same attributes, or `files` with their own."""

    file_ids: list[str] = []
    files: list[NewStoreFile] = []
    attributes: dict[str, Attribute] | None = None
    chunking_strategy: ChunkingStrategy | None = None


class AttributeFilter(msgspec.Struct, kw_only=True):
    """A comparison (`key`, `value`) or a compound (`filters`) of attributes."""

    type: str
    key: str = ""
    value: Any = None
    filters: list[AttributeFilter] = []


class RankingOptions(msgspec.Struct, kw_only=True):
    ranker: str = "auto"
    score_threshold: float = 0.0


class StoreSearch(msgspec.Struct, kw_only=True):
    """`query` is a text, or several: hits of all, the best first. Nothing rewrites it."""

    query: str | list[str]
    filters: AttributeFilter | None = None
    max_num_results: int = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False


class FileCounts(msgspec.Struct, kw_only=True):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreObject(msgspec.Struct, kw_only=True):
    id: str
    object: str = "vector_store"
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: str
    expires_after: ExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    model: str


class StoreList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[StoreObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class LastError(msgspec.Struct, kw_only=True):
    code: str
    message: str


class StoreFileObject(msgspec.Struct, kw_only=True):
    id: str
    object: str = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: str
    last_error: LastError | None
    usage_bytes: int
    attributes: dict[str, Attribute]
    chunking_strategy: ChunkingStrategy | None = None


class StoreFileList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[StoreFileObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class FileBatchObject(msgspec.Struct, kw_only=True):
    id: str
    object: str = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: str
    file_counts: FileCounts


class StoreDeleted(msgspec.Struct, kw_only=True):
    id: str
    object: str = "vector_store.deleted"
    deleted: bool = True


class StoreFileDeleted(msgspec.Struct, kw_only=True):
    id: str
    object: str = "vector_store.file.deleted"
    deleted: bool = True


class TextContent(msgspec.Struct, kw_only=True):
    type: str = "text"
    text: str


class StoreHit(msgspec.Struct, kw_only=True):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, Attribute]
    content: list[TextContent]


class StoreResults(msgspec.Struct, kw_only=True):
    object: str = "vector_store.search_results.page"
    search_query: list[str]
    data: list[StoreHit]
    has_more: bool = False
    next_page: str | None = None


class FileTexts(msgspec.Struct, kw_only=True):
    object: str = "vector_store.file_content.page"
    data: list[TextContent]
    has_more: bool = False
    next_page: str | None = None


def describe_store(store: StoreRecord, files: list[StoreFile], now: float) -> StoreObject:
    """Give a store the form it has for clients. `files`: at least its own."""
    own = [one for one in files if one.store == store.id]
    days = store.expires_days
    status = EXPIRED if is_expired(store, now) else IN_PROGRESS if any(map(is_open, own)) else COMPLETED
    return StoreObject(
        id=store.id, created_at=int(store.created), name=store.name, description=store.description or None,
        usage_bytes=sum(one.bytes for one in own if one.status == COMPLETED), file_counts=counted(own), status=status,
        expires_after=ExpiresAfter(days=days) if days else None,
        expires_at=int(store.active + days * DAY_S) if days else None, last_active_at=int(store.active),
        metadata=store.metadata, model=store.model,
    )  # fmt: skip


def describe_store_file(file: StoreFile) -> StoreFileObject:
    error = LastError(code=file.error_code, message=file.error) if file.error_code else None
    return StoreFileObject(
        id=file.file_id, created_at=int(file.created), vector_store_id=file.store, status=file.status, last_error=error,
        usage_bytes=file.bytes if file.status == COMPLETED else 0, attributes=file.attributes,
        chunking_strategy=described_chunking(file.chunking),
    )  # fmt: skip


def describe_batch(batch: str, store: str, files: list[StoreFile]) -> FileBatchObject:
    """Describe those that were put in together; there is one at least."""
    counts = counted(files)
    ended = CANCELLED if counts.cancelled else FAILED if counts.failed == counts.total else COMPLETED
    return FileBatchObject(
        id=batch, created_at=int(min(one.created for one in files)), vector_store_id=store,
        status=IN_PROGRESS if counts.in_progress else ended, file_counts=counts,
    )  # fmt: skip


def counted(files: list[StoreFile]) -> FileCounts:
    def many(status: str) -> int:
        return sum(one.status == status for one in files)

    return FileCounts(
        in_progress=many(IN_PROGRESS), completed=many(COMPLETED), failed=many(FAILED), cancelled=many(CANCELLED),
        total=len(files),
    )  # fmt: skip


def is_open(file: StoreFile) -> bool:
    return file.status == IN_PROGRESS


def checked_pairs(pairs: dict[str, str] | dict[str, Attribute] | None, param: str) -> dict[str, Any]:
    """Raises InvalidRequest where metadata or attributes are more, or longer, than the API has them."""
    found = dict(pairs or {})
    if len(found) > _MAX_PAIRS:
        raise InvalidRequest(f"{param} has {len(found)} pairs, the limit is {_MAX_PAIRS}", param=param)
    for key, value in found.items():
        if len(key) > _MAX_KEY or (isinstance(value, str) and len(value) > _MAX_VALUE):
            raise InvalidRequest(
                f"keys have up to {_MAX_KEY} characters, values up to {_MAX_VALUE}", param=f"{param}.{key[:_MAX_KEY]}"
            )
    return found
