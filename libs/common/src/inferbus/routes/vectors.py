"""Vectors: indexing, searches, management, watchlists."""

from __future__ import annotations

import msgspec

__all__ = [
    "DURABLE_VECTORS", "FACT_DOCUMENTS_FAILED", "FACT_WATCH_HIT", "KV_COLLECTIONS", "KV_VECTOR_STORES",
    "KV_WATCHLISTS", "KV_WATCH_HITS", "POOL_VECTORS", "QUEUE_VECTORS", "STREAM_VECTORS", "SUBJECTS_VECTORS",
    "VECTORS_MANAGE_ALL", "VECTORS_SEARCH_ALL", "VECTORS_WATCH_ALL", "VectorsSubject", "parse_vectors",
    "vectors_index", "vectors_manage", "vectors_search", "vectors_watch", "watch_hit_key",
]  # fmt: skip

STREAM_VECTORS = "VECTORS"
SUBJECTS_VECTORS = "vectors.index.*.*"
VECTORS_SEARCH_ALL, VECTORS_MANAGE_ALL = "vectors.search.*.*", "vectors.manage.*.*"
DURABLE_VECTORS = "indexer"
QUEUE_VECTORS = "vectors"
POOL_VECTORS = "vectors"
"""Stands where a pool would in what vector operations used."""
KV_COLLECTIONS = "collections"
FACT_DOCUMENTS_FAILED = "documents_failed"
KV_VECTOR_STORES = "vector_stores"
KV_WATCHLISTS, KV_WATCH_HITS = "watchlists", "watch_hits"
VECTORS_WATCH_ALL = "vectors.watch.*.*"
FACT_WATCH_HIT = "watch_hit"


def vectors_watch(tenant: str, verb: str) -> str:
    """Something about a tenant's watchlists, or dead letters."""
    return f"vectors.watch.{tenant}.{verb}"


def watch_hit_key(tenant: str, watchlist: str, hit: str) -> str:
    return f"{tenant}.{watchlist}.{hit}"


def vectors_index(tenant: str, collection: str) -> str:
    """Documents for a collection, or an alias of one."""
    return f"vectors.index.{tenant}.{collection}"


def vectors_search(tenant: str, collection: str) -> str:
    return f"vectors.search.{tenant}.{collection}"


def vectors_manage(tenant: str, verb: str) -> str:
    return f"vectors.manage.{tenant}.{verb}"


class VectorsSubject(msgspec.Struct, frozen=True):
    """`name` is a collection's or an alias's, or a verb."""

    tenant: str
    name: str


def parse_vectors(subject: str) -> VectorsSubject:
    _, _, tenant, name = subject.split(".")
    return VectorsSubject(tenant, name)
