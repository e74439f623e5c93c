"""Vectors: what is asked about collections on `vectors.manage.<tenant>.<verb>`, and the answers. Bodies are JSON.

A verb's request is the class beside it in `REQUESTS`; whatever cannot be done is answered `VectorsRefused`.
"""

from __future__ import annotations

import msgspec

from inferbus.contracts.vector_search import Filter, VectorsRefused
from inferbus.contracts.vectors import COSINE, AliasRecord, Chunking, CollectionRecord, Field, empty_object

CREATE, CHANGE, GET, LIST, DELETE = "create", "change", "get", "list", "delete"
ALIAS, UNALIAS = "alias", "unalias"
REINDEX, END_REINDEX = "reindex", "end_reindex"
STATS, RETRIEVE, SCROLL, ERASE, ERASE_TENANT = "stats", "retrieve", "scroll", "erase", "erase_tenant"
BACKUP, RESTORE, BACKUPS = "backup", "restore", "backups"


class CreateCollection(msgspec.Struct, frozen=True, kw_only=True):
    """`model` empty: documents come with vectors of `dimension`. With a model, 0: what the model gives."""

    name: str
    model: str = ""
    dimension: int = 0
    distance: str = COSINE
    hybrid: bool = False
    fields: list[Field] = []
    chunking: Chunking = Chunking()
    retention_s: float = 0.0
    metadata: dict[str, str] = {}


class ChangeCollection(msgspec.Struct, frozen=True, kw_only=True):
    """None: as it is. Fields can only be added; they count for what is indexed from then on (and after a reindexing)."""

    name: str
    fields: list[Field] | None = None
    retention_s: float | None = None
    metadata: dict[str, str] | None = None
    chunking: Chunking | None = None


class OneCollection(msgspec.Struct, frozen=True, kw_only=True):
    """By its name, or an alias (but to delete it, its name)."""

    name: str


class ListCollections(msgspec.Struct, frozen=True, kw_only=True):
    """In the order of names, those after one."""

    after: str = ""
    limit: int = 100


class SetAlias(msgspec.Struct, frozen=True, kw_only=True):
    """Point an alias at a collection, at once for everybody."""

    alias: str
    collection: str


class DropAlias(msgspec.Struct, frozen=True, kw_only=True):
    alias: str


class StartReindexing(msgspec.Struct, frozen=True, kw_only=True):
    """Move a collection to another model without a pause. What has no text keeps its vector, if it fits. For `keep_s` after
    the swap the old vectors stay, and `end_reindex` returns to them."""

    name: str
    model: str
    dimension: int = 0
    distance: str = ""
    keep_s: float = 30.0


class Documents(msgspec.Struct, frozen=True, kw_only=True):
    """Some documents by id."""

    name: str
    ids: list[str]
    with_vector: bool = False


class Scroll(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of a collection, `limit` chunks at a time; `after` is the `next` of the page before."""

    name: str
    filter: Filter | None = None
    after: str = ""
    limit: int = 100
    with_vector: bool = False


class Erase(msgspec.Struct, frozen=True, kw_only=True):
    """Remove documents for good: by id, or by a filter. One of the two."""

    name: str
    ids: list[str] = []
    filter: Filter | None = None


class EraseTenant(msgspec.Struct, frozen=True, kw_only=True):
    """Remove everything of the subject's tenant: documents, collections, aliases. `confirm` is its name."""

    confirm: str


class MakeBackup(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class RestoreBackup(msgspec.Struct, frozen=True, kw_only=True):
    """Make a new collection `name` of a backup, the id of its file."""

    name: str
    file_id: str


class ListBackups(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first, those after one (the id of its file); `name`: only those of a collection of that name."""

    name: str = ""
    after: str = ""
    limit: int = 100


class CollectionStats(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.stats.v1"):
    """`waiting` messages are in the queue for this collection. `bytes` is the whole shard's, which others may share."""

    collection: CollectionRecord
    documents: int = 0
    chunks: int = 0
    waiting: int = 0
    shard: str = ""
    shard_points: int = 0
    shard_indexed: int = 0
    bytes: int = 0


class Collections(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.collections.v1"):
    collections: list[CollectionRecord] = []
    aliases: list[AliasRecord] = []
    has_more: bool = False


class StoredChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk as it is stored."""

    id: str
    chunk: int = 0
    version: int = 0
    text: str = ""
    payload: msgspec.Raw = msgspec.field(default_factory=empty_object)
    vector_b64: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.page.v1"):
    """`next` empty: there is no more."""

    chunks: list[StoredChunk] = []
    next: str = ""


class Erased(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.erased.v1"):
    chunks: int = 0


class Backup(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.backup.v1"):
    """A collection in a file of its tenant: its record, then its chunks, one to a line."""

    file_id: str
    collection: CollectionRecord
    created: float
    chunks: int = 0
    bytes: int = 0


class BackupFile(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that is there. `collection` is the name it had; `expires_at` 0: it stays."""

    file_id: str
    collection: str
    created: float
    bytes: int = 0
    expires_at: float = 0.0


class Backups(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.backups.v1"):
    backups: list[BackupFile] = []
    has_more: bool = False


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.done.v1"):
    """It was done, and there is nothing else to say."""


REQUESTS: dict[str, type] = {
    CREATE: CreateCollection, CHANGE: ChangeCollection, GET: OneCollection, LIST: ListCollections, DELETE: OneCollection,
    ALIAS: SetAlias, UNALIAS: DropAlias, REINDEX: StartReindexing, END_REINDEX: OneCollection, STATS: OneCollection,
    RETRIEVE: Documents, SCROLL: Scroll, ERASE: Erase, ERASE_TENANT: EraseTenant, BACKUP: MakeBackup,
    RESTORE: RestoreBackup, BACKUPS: ListBackups,
}  # fmt: skip

ManageAnswer = (
    CollectionRecord
    | AliasRecord
    | Collections
    | CollectionStats
    | Page
    | Erased
    | Backup
    | Backups
    | Done
    | VectorsRefused
)
"""create, change, get, delete, reindex and end_reindex are answered with the record as it then is, alias with its own."""
