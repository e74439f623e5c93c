"""Vectors: what a collection is, and the documents that go into it on `vectors.index.<tenant>.<collection>`.

Tenant and collection are the subject's, never a body's. What is searched for is in `vector_search`, what is asked about
collections in `vector_manage`. Bodies are JSON; times are Unix seconds. docs/adr/0017-vectors.md is the design.
"""

from __future__ import annotations

import msgspec

KEY_ID = "Ib-Key"
"""Header: the id of the key that is charged (never its secret); absent: the tenant itself is. Of another tenant: refused."""

REPORT_TO = "Ib-Report-To"
"""Header of an index message: where its `IndexReport` goes, once. Under `reply.<tenant>.`, or a gateway's inbox."""

TRACEPARENT = "traceparent"

COSINE, DOT, EUCLID = "cosine", "dot", "euclid"
DISTANCES = (COSINE, DOT, EUCLID)

KEYWORD, INTEGER, FLOAT, BOOLEAN, DATETIME = "keyword", "integer", "float", "bool", "datetime"
FIELD_TYPES = (KEYWORD, INTEGER, FLOAT, BOOLEAN, DATETIME)
"""What a payload's field may be filtered as. A list of such values matches where one of them does."""

READY, DELETING = "ready", "deleting"
"""States of a collection. Of one that is being deleted nothing is found, and nothing gets in."""

BUILDING, CAUGHT_UP, DONE, FAILED, CANCELLED = "building", "caught_up", "done", "failed", "cancelled"
SWAPPED, DROPPING, ENDING = "swapped", "dropping", "ending"
"""States of a reindexing: documents are copied; all are there, and both placements are compared; it is done; it did not
work; somebody ended it. Between: the new placement is searched, and the old one kept up for a while; the old one is
removed; the new one is removed, since it is to end without having moved."""

MAX_VERSION = 2**53 - 1
"""Versions and such go through a filter as 64-bit floats at a server."""


def empty_object() -> msgspec.Raw:
    """Give the JSON of no payload. (A default that is raw has no place in a JSON schema; one that is made has.)"""
    return msgspec.Raw(b"{}")


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the payload that may be filtered by. `name` may have dots: `author.name`."""

    name: str
    type: str = KEYWORD


class Chunking(msgspec.Struct, frozen=True, kw_only=True):
    """How long text is cut, in characters. `max_chars` 0: not at all."""

    max_chars: int = 1000
    overlap_chars: int = 0


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a collection's vectors lie: all collections of one placement share a physical one (a shard).

    `model` is the embedding model's name in the registry; empty: documents come with their vectors. `generation` tells
    apart what is alike otherwise.
    """

    model: str
    dimension: int
    distance: str = COSINE
    generation: int = 1


class Reindexing(msgspec.Struct, frozen=True, kw_only=True):
    """A collection on its way to another placement. While it is built, caught up or swapped, documents are written to both.

    `to` is the placement that is built; from the swap on, the one that was left. `cursor` is where copying goes on after a
    crash, `owner` the incarnation of the process that copies. Counts are of documents: `repaired` ones were found to differ
    in the `passes` that compared both placements. `keep_s` is how long the old placement can be returned to, `since` when
    each state was entered; the key `key_id` is charged.
    """

    to: Placement
    state: str = BUILDING
    done: int = 0
    total: int = 0
    failed: int = 0
    cursor: str = ""
    owner: str = ""
    started: float = 0.0
    updated: float = 0.0
    error: str = ""
    passes: int = 0
    repaired: int = 0
    keep_s: float = 30.0
    since: dict[str, float] = {}
    key_id: str = ""


class CollectionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.collection.v1"):
    """One collection, under `<tenant>.<name>` in the bucket `collections`; changed by compare-and-set only.

    `id` is made with the collection: one that is made again under its name has none of the old documents. Points carry
    it, so that a name is a matter of this record alone. `live` is searched; `reindexing.to` is written too. `hybrid`:
    texts are also kept as sparse BM25 vectors. `retention_s`: documents go so long after they were indexed (0: never).
    """

    id: str
    tenant: str
    name: str
    live: Placement
    created: float
    hybrid: bool = False
    fields: list[Field] = []
    chunking: Chunking = Chunking()
    retention_s: float = 0.0
    metadata: dict[str, str] = {}
    state: str = READY
    reindexing: Reindexing | None = None
    key_id: str = ""
    updated: float = 0.0


class AliasRecord(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.alias.v1"):
    """Another name of a collection, under `<tenant>.<alias>` in the same bucket: a name is the one or the other."""

    tenant: str
    alias: str
    collection: str
    updated: float = 0.0


Named = CollectionRecord | AliasRecord
"""What the bucket `collections` has under a name."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One document: put in, or taken out (`delete`).

    Of `text`, `vector` and `vector_b64` (little-endian 32-bit floats) at least one is there; a vector that is given is
    the document's one, and the text then serves BM25 and display. `payload` is a JSON object, given back as it came.
    Of two states of a document that of the higher `version` counts, whichever comes last; 0: the message's place in the
    stream. `expires_at` 0, `chunking` None: as the collection says.
    """

    id: str
    text: str | None = None
    vector: list[float] | None = None
    vector_b64: str | None = None
    payload: msgspec.Raw = msgspec.field(default_factory=empty_object)
    version: int = 0
    delete: bool = False
    expires_at: float = 0.0
    chunking: Chunking | None = None


class IndexMessage(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.index.v1"):
    """Documents in the order in which they take effect. One that is faulty becomes a dead letter of its own; the others
    are indexed."""

    documents: list[Document]


class DocumentFault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a document was not indexed. `n` is its place in the message, from 0; `param` the field that is wrong."""

    n: int
    id: str
    code: str
    message: str
    param: str = ""


class IndexReport(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.report.v1"):
    """What became of a message, told when it is durable. `stale` documents were older than what is there. `error`, a code,
    where nothing of the message could be looked at (an unknown collection, unreadable bytes)."""

    tenant: str
    collection: str
    indexed: int = 0
    deleted: int = 0
    stale: int = 0
    chunks: int = 0
    tokens: int = 0
    faults: list[DocumentFault] = []
    error: str = ""
    message: str = ""


class DocumentsFailed(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.documents_failed.v1"):
    """A fact: documents of one message became dead letters. `faults` are the first hundred of `count`."""

    tenant: str
    collection: str
    sequence: int
    count: int
    faults: list[DocumentFault] = []
