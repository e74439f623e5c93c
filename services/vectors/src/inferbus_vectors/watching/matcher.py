"""Matcher: compares chunks with the items of lists. Whatever was indexed comes here before its message is acknowledged, so
that no crash hides a hit; a hit that was kept already is not kept again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from inferbus import routes
from inferbus.contracts.vectors import CollectionRecord, Placement
from inferbus.contracts.watchlists import DUPLICATES, WatchHit, Watchlist
from inferbus_vectors.domain.points import Found, Query, Scope, Where, Write, shard_of
from inferbus_vectors.ports import Embedder, Payer, VectorIndex
from inferbus_vectors.watching.book import WatchBook, WatchView
from inferbus_vectors.watching.deciding import MOST_ITEMS, Shown, best_of, concerned, hit_of

_AT_ONCE = 8
_EMBED_S = 600.0
log = structlog.get_logger()


class CollectionFinder(Protocol):
    """Knows collections by their names (`CollectionsView`)."""

    def find(self, tenant: str, name: str) -> CollectionRecord | None: ...


class MatcherDeps(msgspec.Struct, frozen=True, kw_only=True):
    index: VectorIndex
    embedder: Embedder
    collections: CollectionFinder
    lists: WatchView
    book: WatchBook
    registry: CollectorRegistry


class Matcher:
    """One per process."""

    def __init__(self, deps: MatcherDeps) -> None:
        self._deps = deps
        self._turns = asyncio.Semaphore(_AT_ONCE)
        labels = ["kind"]
        self._matched = Counter(
            "inferbus_vectors_watch_compared", "Chunks compared with a watchlist", labels, registry=deps.registry
        )
        self._hits = Counter("inferbus_vectors_watch_hits", "Hits that were new", labels, registry=deps.registry)
        self._unfit = Counter(
            "inferbus_vectors_watch_incomparable", "Chunks that a watchlist's model cannot be shown", labels,
            registry=deps.registry,
        )  # fmt: skip

    async def on_written(self, payer: Payer, collection: CollectionRecord, writes: Sequence[Write]) -> int:
        """Compare what was just stored in a collection with the lists that watch it; gives how many hits were new.

        Raises:
            Transient: not all could be compared; doing it again is safe.
        """
        lists = concerned(self._deps.lists.of(payer.tenant), collection)
        if not lists:
            return 0
        shown = [
            Shown(document=write.id, chunk=n, text=chunk.text, vector=chunk.vector, version=write.version,
                  collection=collection.name)
            for write in writes
            for n, chunk in enumerate(write.chunks)
        ]  # fmt: skip
        new = 0
        for one in lists:
            hits, _ = await self.match(payer, one, shown, collection.live, lane=routes.BATCH)
            new += await self.note(hits)
        return new

    async def match(
        self, payer: Payer, watchlist: Watchlist, shown: Sequence[Shown], made_by: Placement | None, *, lane: str
    ) -> tuple[list[WatchHit], int]:
        """Compare chunks with a list's items; gives hits, the nearest first, and the tokens that were embedded for it.

        `made_by` is where the chunks' vectors come from; of another model's, or without any, their texts are embedded.
        """
        items = self._deps.collections.find(watchlist.tenant, watchlist.collection)
        if items is None or not shown:
            return [], 0
        fit, tokens = list(shown), 0
        if made_by is None or (made_by.model, made_by.dimension) != (items.live.model, items.live.dimension):
            fit, tokens = await self._embedded(payer, items, shown, lane)
        self._unfit.labels(watchlist.kind).inc(len(shown) - len(fit))
        found = await asyncio.gather(*(self._near(watchlist, items, one) for one in fit))
        self._matched.labels(watchlist.kind).inc(len(fit))
        at = round(time.time(), 3)
        hits = [hit_of(watchlist, one, near, at) for one, nears in zip(fit, found, strict=True) for near in nears]
        return best_of(hits), tokens

    async def note(self, hits: Sequence[WatchHit]) -> int:
        """Keep hits and tell of those that are new; gives how many."""
        new = 0
        for hit in hits:
            if await self._deps.book.note(hit):
                new += 1
                self._hits.labels(hit.kind).inc()
                log.info("watch_hit", tenant=hit.tenant, watchlist=hit.watchlist, item=hit.item, document=hit.document,
                         collection=hit.collection, score=hit.score)  # fmt: skip
        return new

    async def _near(self, watchlist: Watchlist, items: CollectionRecord, shown: Shown) -> list[Found]:
        own = [shown.document] if watchlist.kind == DUPLICATES else []
        query = Query(
            where=Where(scope=Scope(watchlist.tenant, items.id), not_documents=own), dense=shown.vector,
            limit=MOST_ITEMS, threshold=watchlist.threshold, exact=True,
        )  # fmt: skip
        async with self._turns:
            return await self._deps.index.search(shard_of(items.live).name, query)

    async def _embedded(
        self, payer: Payer, items: CollectionRecord, shown: Sequence[Shown], lane: str
    ) -> tuple[list[Shown], int]:
        texts = [one for one in shown if one.text.strip()]
        if not items.live.model or not texts:
            return [], 0
        made = await self._deps.embedder.embed(
            payer, items.live.model, [one.text for one in texts], lane=lane, deadline_s=_EMBED_S
        )
        fit = [msgspec.structs.replace(one, vector=vector) for one, vector in zip(texts, made.vectors, strict=True)]
        return fit, made.tokens
