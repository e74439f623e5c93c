"""Points: what the engines store, in this service's own words. Vectors are little-endian 32-bit floats as bytes.

A document is one point or more, its chunks, told apart by a name each (`point_id`). Chunk 0 is its head: with it a
document is there or is not, and its version counts for all chunks. A document that was taken out leaves a head without
vectors (a gravestone), so that an older state that comes later does not bring it back.
"""

from __future__ import annotations

import uuid
from functools import lru_cache

import msgspec

from inferbus.contracts.vector_search import Filter
from inferbus.contracts.vectors import COSINE, Placement
from inferbus.routes import token_safe

_NAMESPACE = uuid.UUID("8f1ce9a2-6c3e-5d54-9d3a-5b1f0c7b2f60")


class Scope(msgspec.Struct, frozen=True):
    """Whose points: of one collection (`CollectionRecord.id`), or (empty) all of a tenant's. No search is without one."""

    tenant: str
    collection: str = ""


def point_id(scope: Scope, document: str, chunk: int) -> str:
    """Name a point: the same for the same chunk for ever, whoever writes it."""
    return str(uuid.uuid5(_NAMESPACE, f"{scope.tenant}/{scope.collection}/{document}#{chunk}"))


class ShardSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A physical collection. All have sparse vectors besides the dense ones."""

    name: str
    dimension: int
    distance: str = COSINE


@lru_cache(maxsize=1024)
def shard_of(placement: Placement) -> ShardSpec:
    """Give the shard where collections of a placement lie."""
    model = token_safe(placement.model) or "ready"
    # Two models whose token-safe names are alike must not share a shard.
    mark = uuid.uuid5(_NAMESPACE, placement.model).hex[:8]
    name = f"{model[:60]}-{mark}_{placement.dimension}_{placement.distance}_g{placement.generation}"
    return ShardSpec(name=name, dimension=placement.dimension, distance=placement.distance)


class Sparse(msgspec.Struct, frozen=True):
    """A sparse vector; indices ascend not necessarily, and come once each."""

    indices: list[int]
    values: list[float]


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk to be stored."""

    vector: bytes
    sparse: Sparse | None = None
    text: str = ""


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """A document to be stored with these chunks and no others; without chunks: to be taken out.

    `payload` is the JSON object as it came, `facets` a JSON object of what may be filtered by (`domain.facets`).
    `expires_at` 0: never.
    """

    scope: Scope
    id: str
    version: int
    chunks: list[Chunk] = []
    payload: bytes = b"{}"
    facets: bytes = b"{}"
    at: float = 0.0
    expires_at: float = 0.0


INDEXED, DELETED, STALE = "indexed", "deleted", "stale"
"""What a write came to. `stale`: what is there is newer, and stays."""


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Which points: those of a scope that fulfil everything else that is said. `filter` has facets for keys
    (`domain.facets.resolve`). `expired_at`: those that were to go by that time (Unix seconds);
    `alive_at`: only the others."""

    scope: Scope
    filter: Filter | None = None
    documents: list[str] | None = None
    not_documents: list[str] = []
    heads_only: bool = False
    expired_at: float = 0.0
    alive_at: float = 0.0


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A search. `dense` and `sparse` together: both rankings fused (RRF). `ef` 0: the engine's own effort."""

    where: Where
    dense: bytes | None = None
    sparse: Sparse | None = None
    limit: int = 10
    offset: int = 0
    threshold: float | None = None
    exact: bool = False
    ef: int = 0
    with_payload: bool = True
    with_text: bool = True
    with_vector: bool = False


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk, found or read. `score` is 0 where nothing was compared; `sparse` comes with `vector`, where there is one.
    `collection` is its scope's."""

    id: str
    chunk: int
    version: int
    score: float = 0.0
    payload: bytes = b"{}"
    text: str = ""
    vector: bytes | None = None
    sparse: Sparse | None = None
    collection: str = ""
    chunks: int = 1
    at: float = 0.0
    expires_at: float = 0.0


class FoundPage(msgspec.Struct, frozen=True, kw_only=True):
    """`next` is what to go on after; empty: this was the last page."""

    found: list[Found]
    next: str = ""


class ShardStats(msgspec.Struct, frozen=True, kw_only=True):
    """`indexed` vectors are found by graph, the others by looking at each. `bytes` on disk, 0: not known."""

    points: int = 0
    indexed: int = 0
    segments: int = 0
    bytes: int = 0
    optimising: bool = False
