"""Searching: from a request and its collection's record to hits. Tenant and collection come from the subject alone."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from inferbus import routes
from inferbus.contracts.vector_search import Hit, SearchRequest
from inferbus.contracts.vectors import CollectionRecord
from inferbus.errors import DependencyDown, EngineDead, InferbusError, NotFound
from inferbus_vectors.domain.facets import resolve
from inferbus_vectors.domain.points import Found, Query, Scope, Where, shard_of
from inferbus_vectors.domain.ranking import best_of_each, page_of, reordered
from inferbus_vectors.domain.search_plan import MAX_DEPTH, Plan, plan_search
from inferbus_vectors.ports import Embedder, Payer, SparseEncoder, VectorIndex

T = TypeVar("T")
_AGAIN_S = 0.1
_PATIENCE = 0.8
"""Of a search's time: so long it is asked again of an engine that is being started anew."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for a search, and how long there is for it (seconds)."""

    payer: Payer
    deadline_s: float
    traceparent: str = ""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """Hits, the best first, and the tokens models have read for them."""

    hits: list[Hit]
    tokens: int = 0


class Scored(msgspec.Struct, frozen=True):
    """A score for each text, in order, and the tokens that were read."""

    scores: list[float]
    tokens: int


class Reranker(Protocol):
    """Says by a model of the registry how well texts answer a query, charged as any request."""

    async def score(self, asked: Asked, model: str, query: str, texts: Sequence[str]) -> Scored:
        """Score texts.

        Raises:
            Permanent: this model, or these texts, never. Transient: later it may work.
        """
        ...


class SearchDeps(msgspec.Struct, frozen=True, kw_only=True):
    index: VectorIndex
    embedder: Embedder
    sparse: SparseEncoder
    reranker: Reranker


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, as the engine takes it."""

    query: Query
    tokens: int


class Searching:
    """Answers searches; one for all of a process."""

    def __init__(self, deps: SearchDeps, clock: Callable[[], float] = time.time) -> None:
        self._deps = deps
        self._clock = clock

    async def search(self, asked: Asked, collection: CollectionRecord, request: SearchRequest) -> Answered:
        """Answer one.

        Raises:
            InvalidRequest, NotFound, Unsupported, TooLarge: never, whatever one waits; the message names the field.
            Transient: the engine, or a model, cannot be asked now.
        """
        plan = plan_search(request, collection)
        wanted = await self._wanted(asked, collection, request, plan)
        shard = shard_of(collection.live).name
        if not plan.regroups:
            return Answered(hits=_hits(await self._found(asked, shard, wanted.query), request), tokens=wanted.tokens)
        found, tokens = await self._regrouped(asked, shard, request, wanted)
        return Answered(hits=_hits(found, request), tokens=tokens)

    async def _wanted(self, asked: Asked, collection: CollectionRecord, request: SearchRequest, plan: Plan) -> _Wanted:
        scope = Scope(asked.payer.tenant, collection.id)
        where = Where(
            scope=scope, filter=resolve(request.filter, collection.fields) if request.filter is not None else None,
            not_documents=[request.like] if request.like is not None else [],
        )  # fmt: skip
        dense, tokens = plan.vector, 0
        if request.like is not None:
            dense = await self._vector_of(asked, shard_of(collection.live).name, scope, request.like)
        elif plan.embeds and request.text is not None:
            dense, tokens = await self._embedded(asked, collection, request.text)
        sparse = self._deps.sparse.query(request.text) if plan.is_sparse and request.text is not None else None
        query = Query(
            where=where, dense=dense, sparse=sparse, limit=plan.fetch, offset=plan.skip, threshold=plan.threshold,
            exact=request.exact, with_payload=request.with_payload, with_text=plan.with_text,
            with_vector=request.with_vector,
        )  # fmt: skip
        return _Wanted(query=query, tokens=tokens)

    async def _found(self, asked: Asked, shard: str, query: Query) -> list[Found]:
        """Find what has not expired. To ask for that costs the engine more than the rest of a search: it is asked again,
        and for that, where something has."""
        found, now = await _patiently(asked, lambda: self._deps.index.search(shard, query)), self._clock()
        if not any(0.0 < one.expires_at <= now for one in found):
            return found
        alive = msgspec.structs.replace(query, where=msgspec.structs.replace(query.where, alive_at=now))
        return await _patiently(asked, lambda: self._deps.index.search(shard, alive))

    async def _vector_of(self, asked: Asked, shard: str, scope: Scope, document: str) -> bytes:
        where = Where(scope=scope, documents=[document], heads_only=True)
        page = await _patiently(asked, lambda: self._deps.index.read(shard, where, limit=1, with_vector=True))
        if not page.found or page.found[0].vector is None:
            raise NotFound(f"like: there is no document {document[:80]!r} in this collection", param="like")
        return page.found[0].vector

    async def _embedded(self, asked: Asked, collection: CollectionRecord, text: str) -> tuple[bytes, int]:
        embedded = await self._deps.embedder.embed(
            asked.payer, collection.live.model, [text], lane=routes.INTERACTIVE, deadline_s=asked.deadline_s,
            traceparent=asked.traceparent,
        )  # fmt: skip
        vector = embedded.vectors[0]
        if len(vector) != 4 * collection.live.dimension:
            raise InferbusError(
                f"the model `{collection.live.model}` gives {len(vector) // 4} numbers, the collection has "
                f"{collection.live.dimension}: it is another model than it was"
            )
        return vector, embedded.tokens

    async def _regrouped(
        self, asked: Asked, shard: str, request: SearchRequest, wanted: _Wanted
    ) -> tuple[list[Found], int]:
        """Find as many as are needed, and order them anew: the best chunk of each document, by the reranker's scores."""
        query, needed = wanted.query, request.offset + request.limit
        while True:
            found = await self._found(asked, shard, query)
            kept = best_of_each(found) if request.by_document else found
            if (
                len(kept) >= needed
                or len(found) < query.limit
                or query.limit >= MAX_DEPTH
                or request.rerank is not None
            ):
                break
            query = msgspec.structs.replace(query, limit=min(2 * query.limit, MAX_DEPTH))
        tokens, threshold = wanted.tokens, None
        if request.rerank is not None and kept:
            said = request.text or ""
            scored = await self._deps.reranker.score(asked, request.rerank.model, said, [one.text for one in kept])
            kept, tokens, threshold = reordered(kept, scored.scores), tokens + scored.tokens, request.threshold
        return page_of(kept, threshold=threshold, offset=request.offset, limit=request.limit), tokens


async def _patiently(asked: Asked, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the engine; one that has died is back in a moment, and what only reads may be asked again. One that says nothing is
    not waited for to the end: whoever asks is told to come again.
    """
    patience_s = _PATIENCE * asked.deadline_s
    give_up = time.monotonic() + patience_s
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    return await ask()
                except (EngineDead, DependencyDown):
                    if time.monotonic() + _AGAIN_S >= give_up:
                        raise
                await asyncio.sleep(_AGAIN_S)
    except TimeoutError:
        raise EngineDead(f"the engine has not answered for {patience_s:g} s", retry_after_s=1.0) from None


def _hits(found: Sequence[Found], request: SearchRequest) -> list[Hit]:
    return [
        Hit(
            id=one.id, score=one.score, chunk=one.chunk, version=one.version, text=one.text if request.with_text else "",
            payload=msgspec.Raw(one.payload if request.with_payload else b"{}"),
            vector_b64=base64.b64encode(one.vector).decode() if one.vector is not None else None,
        )
        for one in found
    ]  # fmt: skip
