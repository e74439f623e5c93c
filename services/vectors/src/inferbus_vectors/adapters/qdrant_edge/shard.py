"""Shard: what the service does with an `EdgeShard`, in the process that owns it. Every call holds the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import qdrant_edge as qe

from inferbus.contracts.vectors import COSINE, DOT, EUCLID, Field
from inferbus_vectors.adapters.qdrant_edge.filters import filter_of, scope_condition
from inferbus_vectors.domain.facets import INTEGERS, NUMBERS, TIMES, WORDS, facet_key, kind_of
from inferbus_vectors.domain.points import Found, FoundPage, Query, Scope, ShardSpec, Sparse, Where, Write, point_id
from inferbus_vectors.domain.stored import (
    DENSE,
    EXPIRES,
    GRAVE,
    HEAD_KEYS,
    NUMBER,
    SCOPE,
    SPARSE,
    TENANT,
    NewPoint,
    found_from,
    grave_key,
    head_ids,
    keys_wanted,
    plan,
)

_DISTANCES = {COSINE: qe.Distance.Cosine, DOT: qe.Distance.Dot, EUCLID: qe.Distance.Euclid}
_KINDS = {
    WORDS: qe.KeywordIndexParams(),
    INTEGERS: qe.PayloadSchemaType.Integer,
    NUMBERS: qe.PayloadSchemaType.Float,
    TIMES: qe.PayloadSchemaType.Datetime,
}
_RRF_K = 60
_FUSED = 4
"""Of either ranking so many times the hits that are wanted are fused, and 50 at least."""


class Shard:
    """One open shard. `close` it before its folder is touched by anybody else."""

    def __init__(self, shard: qe.EdgeShard) -> None:
        self._shard = shard

    @classmethod
    def create(cls, folder: Path, spec: ShardSpec) -> Shard:
        """Make a shard in a folder that is not there, with the indexes every search needs."""
        folder.mkdir(parents=True)
        vectors = {DENSE: qe.EdgeVectorParams(size=spec.dimension, distance=_DISTANCES[spec.distance])}
        sparse = {SPARSE: qe.EdgeSparseVectorParams(modifier=qe.Modifier.Idf)}
        shard = qe.EdgeShard.create(str(folder), qe.EdgeConfig(vectors=vectors, sparse_vectors=sparse))
        for key, kind in (
            (SCOPE, qe.KeywordIndexParams(is_tenant=True)),
            (TENANT, qe.KeywordIndexParams()),
            (NUMBER, qe.PayloadSchemaType.Integer),
            (EXPIRES, qe.PayloadSchemaType.Float),
            (GRAVE, qe.PayloadSchemaType.Float),
        ):
            shard.update(qe.UpdateOperation.create_field_index(key, kind))
        shard.flush()
        return cls(shard)

    @classmethod
    def load(cls, folder: Path) -> Shard:
        return cls(qe.EdgeShard.load(str(folder)))

    def index_fields(self, fields: Sequence[Field]) -> None:
        known = self._shard.info().payload_schema
        for key in {facet_key(field) for field in fields} - set(known):
            self._shard.update(qe.UpdateOperation.create_field_index(key, _KINDS[kind_of(key)]))

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write]) -> list[str]:
        """Store documents, no one twice. Durable after the next `flush`."""
        names = head_ids(writes)
        found = self._shard.retrieve(names, HEAD_KEYS, False)  # has no keyword names
        decided = plan(writes, names, {str(record.id): record.payload or {} for record in found})
        if decided.put:
            self._shard.update(qe.UpdateOperation.upsert_points([_point(point) for point in decided.put]))
        if decided.take_out:
            self._shard.update(qe.UpdateOperation.delete_points(decided.take_out))
        return decided.outcomes

    def erase(self, where: Where) -> int:
        """Remove points, and where a whole scope is meant its gravestones too."""
        filter_ = self._filter(where)
        count = self._shard.count(qe.CountRequest(filter=filter_))
        self._shard.update(qe.UpdateOperation.delete_points_by_filter(filter_))
        if where == Where(scope=where.scope) and where.scope.collection:
            gone = qe.FieldCondition(key=SCOPE, match=qe.MatchValue(grave_key(where.scope)))
            self._shard.update(qe.UpdateOperation.delete_points_by_filter(qe.Filter(must=[gone])))
        return int(count)

    def sweep(self, older_than: float) -> int:
        old = qe.Filter(must=[qe.FieldCondition(key=GRAVE, range=qe.RangeFloat(lt=older_than))])
        count = self._shard.count(qe.CountRequest(filter=old))
        if count:
            self._shard.update(qe.UpdateOperation.delete_points_by_filter(old))
        return int(count)

    def flush(self) -> None:
        self._shard.flush()

    def close(self) -> None:
        self._shard.close()

    def optimise(self) -> None:
        """Build graphs of what is there. Takes minutes for 100,000 points."""
        self._shard.optimize()
        self._shard.flush()

    # --- reading ------------------------------------------------------------------------------------------------------

    def search(self, queries: Sequence[Query]) -> list[list[Found]]:
        """Search for several at once: they share the passes over the vectors."""
        requests = [self._request(query) for query in queries]
        if len(requests) == 1:
            found = [self._shard.query(requests[0])]
        else:
            found = self._shard.query_batch(qe.QueryBatchRequest(requests))
        return [[_found(point, point.score) for point in points] for points in found]

    def read(self, where: Where, after: str, limit: int, with_vector: bool) -> FoundPage:
        points, following = self._shard.scroll(
            qe.ScrollRequest(
                offset=after or None, limit=limit, filter=self._filter(where), with_payload=keys_wanted(payload=True, text=True),
                with_vector=with_vector,
            )
        )  # fmt: skip
        return FoundPage(found=[_found(point) for point in points], next="" if following is None else str(following))

    def count(self, where: Where) -> int:
        return int(self._shard.count(qe.CountRequest(filter=self._filter(where))))

    def info(self) -> tuple[int, int, int]:
        """Give points, those of them in a graph, and segments."""
        info = self._shard.info()
        return info.points_count, info.indexed_vectors_count, info.segments_count

    def _request(self, query: Query) -> qe.QueryRequest:
        where = query.where
        filter_ = self._filter(where)
        corpus = qe.IdfParams(corpus=qe.Filter(must=[scope_condition(where.scope)]))
        plain = qe.SearchParams(exact=query.exact, hnsw_ef=query.ef or None)
        rankings: list[tuple[Any, qe.SearchParams]] = []
        if query.dense is not None:
            rankings.append((qe.Query.Nearest(np.frombuffer(query.dense, np.float32), using=DENSE), plain))
        if query.sparse is not None:
            rankings.append((qe.Query.Nearest(_sparse(query.sparse), using=SPARSE), qe.SearchParams(idf=corpus)))
        common: dict[str, Any] = {
            "limit": query.limit, "offset": query.offset, "filter": filter_, "score_threshold": query.threshold,
            "with_payload": keys_wanted(payload=query.with_payload, text=query.with_text),
            "with_vector": [DENSE] if query.with_vector else None,
        }  # fmt: skip
        if len(rankings) == 1:
            ((one, params),) = rankings
            return qe.QueryRequest(query=one, params=params, **common)
        wanted = max(50, _FUSED * (query.limit + query.offset))
        prefetches = [qe.Prefetch(limit=wanted, query=one, filter=filter_, params=params) for one, params in rankings]
        return qe.QueryRequest(query=qe.Fusion.Rrf(k=_RRF_K), prefetches=prefetches, **common)

    def _filter(self, where: Where) -> qe.Filter:
        ids = None if where.documents is None else self._ids(where.scope, where.documents)
        return filter_of(where, ids, self._ids(where.scope, where.not_documents) if where.not_documents else None)

    def _ids(self, scope: Scope, documents: Sequence[str]) -> set[str]:
        """Name all points of some documents: their heads say how many there are."""
        heads = {point_id(scope, document, 0): document for document in documents}
        ids: set[str] = set()
        for record in self._shard.retrieve(list(heads), HEAD_KEYS, False):  # has no keyword names
            head = record.payload or {}
            count = max(head.get("m", 1), head.get("o", 0))
            ids |= {point_id(scope, heads[str(record.id)], n) for n in range(count)} | {str(record.id)}
        return ids


def _point(point: NewPoint) -> qe.Point:
    vectors: dict[str, Any] = {}
    if point.chunk is not None:
        vectors[DENSE] = np.frombuffer(point.chunk.vector, np.float32).tolist()
        if point.chunk.sparse is not None:
            vectors[SPARSE] = _sparse(point.chunk.sparse)
    return qe.Point(point.id, vectors, point.payload)


def _sparse(sparse: Sparse) -> qe.SparseVector:
    return qe.SparseVector(sparse.indices, sparse.values)


def _found(point: qe.ScoredPoint | qe.Record, score: float = 0.0) -> Found:
    found = found_from(point.payload or {}, score=score)
    vectors = point.vector
    if not isinstance(vectors, dict) or DENSE not in vectors:
        return found
    dense = np.asarray(vectors[DENSE], np.float32).tobytes()
    sparse = vectors.get(SPARSE)
    kept = None if sparse is None else Sparse(sparse.indices, sparse.values)
    return msgspec.structs.replace(found, vector=dense, sparse=kept)
