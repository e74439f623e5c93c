"""ServerIndex: a Qdrant server. Collections there are our shards, by a prefix; the same points as in the embedded engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as m

from inferbus.contracts.vectors import COSINE, DOT, EUCLID, Field
from inferbus.errors import InferbusError, NotFound
from inferbus_vectors.adapters.qdrant_server.filters import filter_of, matches, scope_condition
from inferbus_vectors.adapters.qdrant_server.points import dense_of, found_of, point_of, sparse_of
from inferbus_vectors.adapters.qdrant_server.retrying import ask
from inferbus_vectors.domain.facets import INTEGERS, NUMBERS, TIMES, WORDS, facet_key, kind_of
from inferbus_vectors.domain.points import Found, FoundPage, Query, Scope, ShardSpec, ShardStats, Where, Write, point_id
from inferbus_vectors.domain.stored import (
    DENSE,
    EXPIRES,
    GRAVE,
    HEAD_KEYS,
    NUMBER,
    SCOPE,
    SPARSE,
    TENANT,
    Plan,
    grave_key,
    head_ids,
    keys_wanted,
    plan,
)

T = TypeVar("T")
_DISTANCES = {COSINE: m.Distance.COSINE, DOT: m.Distance.DOT, EUCLID: m.Distance.EUCLID}
_KINDS = {
    WORDS: m.PayloadSchemaType.KEYWORD,
    INTEGERS: m.PayloadSchemaType.INTEGER,
    NUMBERS: m.PayloadSchemaType.FLOAT,
    TIMES: m.PayloadSchemaType.DATETIME,
}
_RRF_K, _FUSED, _FEWEST = 60, 4, 50
_ASK_S, _TIMEOUT_S = 20.0, 10
_REACH_S = 1.0
log = structlog.get_logger()


def connect(url: str, *, api_key: str = "") -> AsyncQdrantClient:
    """Make a client: `:memory:`, or a server's address; gRPC at its port 6334 unless `grpc_port` is in the query."""
    if url == ":memory:":
        return AsyncQdrantClient(":memory:")
    parts = urlsplit(url)
    grpc_port = int(parts.query.removeprefix("grpc_port=") or 6334)
    return AsyncQdrantClient(
        url=f"{parts.scheme}://{parts.netloc}{parts.path}", grpc_port=grpc_port, prefer_grpc=True, api_key=api_key or None,
        timeout=_TIMEOUT_S, check_compatibility=False,
    )  # fmt: skip


class ServerIndex:
    """Implements `VectorIndex`. Writes of one process to one shard go one after the other; of several processes the older
    state of a document never replaces the newer one, by a condition the server checks."""

    def __init__(self, client: AsyncQdrantClient, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._reached = False

    def why_not_ready(self) -> str | None:
        return None if self._reached else "the vector engine was not reached yet"

    async def reached(self) -> None:
        """Wait until the server answers."""
        while not self._reached:
            try:
                await self.shards()
                self._reached = True
            except InferbusError as error:
                log.warning("engine_not_reached", error=error.message)
                await asyncio.sleep(_REACH_S)

    async def stop(self) -> None:
        await self._client.close()

    # --- shards -------------------------------------------------------------------------------------------------------

    async def ensure(self, shard: ShardSpec) -> None:
        name = self._name(shard.name)
        if await self._ask(lambda: self._client.collection_exists(name)):
            return
        await self._ask(
            lambda: self._client.create_collection(
                name,
                vectors_config={DENSE: m.VectorParams(size=shard.dimension, distance=_DISTANCES[shard.distance])},
                sparse_vectors_config={SPARSE: m.SparseVectorParams(modifier=m.Modifier.IDF)},
            )
        )
        tenant = m.KeywordIndexParams(type=m.KeywordIndexType.KEYWORD, is_tenant=True)
        kinds: dict[str, Any] = {
            SCOPE: tenant, TENANT: m.PayloadSchemaType.KEYWORD, NUMBER: m.PayloadSchemaType.INTEGER,
            EXPIRES: m.PayloadSchemaType.FLOAT, GRAVE: m.PayloadSchemaType.FLOAT,
        }  # fmt: skip
        for key, kind in kinds.items():
            await self._index(name, key, kind)

    async def drop(self, shard: str, *, only_if_empty: bool = False) -> bool:
        """As the port says; of several processes only this one's writes wait between the look and the removal."""
        name = self._name(shard)
        async with self._locks[shard]:
            if only_if_empty:
                with suppress(NotFound):
                    if (await self._ask(lambda: self._client.count(name, exact=True))).count:
                        return False
            await self._ask(lambda: self._client.delete_collection(name))
        return True

    async def shards(self) -> list[str]:
        found = await self._ask(self._client.get_collections)
        names = (one.name for one in found.collections)
        return sorted(name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix))

    async def index_fields(self, shard: str, fields: Sequence[Field]) -> None:
        for field in fields:
            key = facet_key(field)
            await self._index(self._name(shard), key, _KINDS[kind_of(key)])

    # --- changes ------------------------------------------------------------------------------------------------------

    async def write(self, shard: str, writes: Sequence[Write]) -> list[str]:
        name, heads = self._name(shard), head_ids(writes)
        async with self._locks[shard]:
            found = await self._ask(lambda: self._client.retrieve(name, heads, with_payload=HEAD_KEYS))
            decided = plan(writes, heads, {str(record.id): record.payload or {} for record in found})
            if decided.put:
                operations = _operations(decided)
                await self._ask(lambda: self._client.batch_update_points(name, operations, wait=True))
        return decided.outcomes

    async def erase(self, shard: str, where: Where) -> int:
        name, filter_ = self._name(shard), await self._filter(shard, where)
        count = await self._ask(lambda: self._client.count(name, filter_))
        await self._delete(name, filter_)
        if where == Where(scope=where.scope) and where.scope.collection:
            await self._delete(name, m.Filter(must=[matches(SCOPE, grave_key(where.scope))]))
        return count.count

    async def sweep(self, shard: str, *, older_than: float) -> int:
        name = self._name(shard)
        old = m.Filter(must=[m.FieldCondition(key=GRAVE, range=m.Range(lt=older_than))])
        count = await self._ask(lambda: self._client.count(name, old))
        if count.count:
            await self._delete(name, old)
        return count.count

    # --- questions ----------------------------------------------------------------------------------------------------

    async def search(self, shard: str, query: Query) -> list[Found]:
        request = self._request(query, await self._filter(shard, query.where))
        answer = await self._ask(lambda: self._client.query_points(self._name(shard), **request))
        return [found_of(point, point.score) for point in answer.points]

    async def read(
        self, shard: str, where: Where, *, after: str = "", limit: int = 100, with_vector: bool = False
    ) -> FoundPage:
        filter_ = await self._filter(shard, where)
        points, following = await self._ask(
            lambda: self._client.scroll(
                self._name(shard), filter_, limit=limit, offset=after or None, with_vectors=with_vector,
                with_payload=keys_wanted(payload=True, text=True),
            )
        )  # fmt: skip
        return FoundPage(found=[found_of(point) for point in points], next="" if following is None else str(following))

    async def count(self, shard: str, where: Where) -> int:
        filter_ = await self._filter(shard, where)
        return (await self._ask(lambda: self._client.count(self._name(shard), filter_))).count

    async def stats(self, shard: str) -> ShardStats:
        info = await self._ask(lambda: self._client.get_collection(self._name(shard)))
        return ShardStats(
            points=info.points_count or 0, indexed=info.indexed_vectors_count or 0, segments=info.segments_count,
            optimising=info.status == m.CollectionStatus.YELLOW,
        )  # fmt: skip

    async def optimise(self, shard: str) -> None:
        """Nothing: a server does it by itself."""

    # ------------------------------------------------------------------------------------------------------------------

    def _name(self, shard: str) -> str:
        return f"{self._prefix}{shard}"

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        return await ask(call, within_s=_ASK_S)

    async def _index(self, name: str, key: str, kind: Any) -> None:
        await self._ask(lambda: self._client.create_payload_index(name, key, kind, wait=True))

    async def _delete(self, name: str, filter_: m.Filter) -> None:
        selector = m.FilterSelector(filter=filter_)
        await self._ask(lambda: self._client.delete(name, selector, wait=True))

    async def _filter(self, shard: str, where: Where) -> m.Filter:
        ids = None if where.documents is None else await self._ids(shard, where.scope, where.documents)
        return filter_of(where, ids, await self._ids(shard, where.scope, where.not_documents))

    async def _ids(self, shard: str, scope: Scope, documents: Sequence[str]) -> list[str]:
        """Name all points of some documents: their heads say how many there are."""
        heads = {point_id(scope, document, 0): document for document in documents}
        if not heads:
            return []
        found = await self._ask(lambda: self._client.retrieve(self._name(shard), list(heads), with_payload=HEAD_KEYS))
        ids: list[str] = []
        for record in found:
            head = record.payload or {}
            count = max(1, head.get("m", 1), head.get("o", 0))
            ids += [point_id(scope, heads[str(record.id)], n) for n in range(count)]
        return ids

    def _request(self, query: Query, filter_: m.Filter) -> dict[str, Any]:
        corpus = m.IdfCorpusParams(corpus=m.Filter(must=[scope_condition(query.where.scope)]))
        params = m.SearchParams(exact=query.exact, hnsw_ef=query.ef or None)
        rankings: list[dict[str, Any]] = []
        if query.dense is not None:
            rankings.append({"query": dense_of(query.dense), "using": DENSE, "params": params})
        if query.sparse is not None:
            rankings.append({"query": sparse_of(query.sparse), "using": SPARSE, "params": m.SearchParams(idf=corpus)})
        common: dict[str, Any] = {
            "limit": query.limit, "offset": query.offset, "score_threshold": query.threshold,
            "with_payload": keys_wanted(payload=query.with_payload, text=query.with_text),
            "with_vectors": [DENSE] if query.with_vector else False,
        }  # fmt: skip
        if len(rankings) == 1:
            one = rankings[0]
            return common | {
                "query": one["query"],
                "using": one["using"],
                "search_params": one["params"],
                "query_filter": filter_,
            }
        wanted = max(_FEWEST, _FUSED * (query.limit + query.offset))
        prefetch = [m.Prefetch(limit=wanted, filter=filter_, **ranking) for ranking in rankings]
        return common | {"prefetch": prefetch, "query": m.RrfQuery(rrf=m.Rrf(k=_RRF_K))}


def _operations(decided: Plan) -> list[Any]:
    """Make one request of a plan: points by version, each only over what is not newer; then what is over."""
    by_version: defaultdict[int, list[m.PointStruct]] = defaultdict(list)
    for point in decided.put:
        by_version[point.payload["v"]].append(point_of(point))
    operations: list[Any] = [
        m.UpsertOperation(
            upsert=m.PointsList(
                points=points,
                update_filter=m.Filter(must=[m.FieldCondition(key="v", range=m.Range(lte=float(version)))]),
            )
        )
        for version, points in by_version.items()
    ]
    if decided.take_out:
        operations.append(m.DeleteOperation(delete=m.PointIdsList(points=list(decided.take_out))))
    return operations
