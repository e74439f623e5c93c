"""Unused: shards in which nothing lies and no collection is, dropped."""

from __future__ import annotations

import structlog

from inferbus.contracts.vectors import CollectionRecord
from inferbus.errors import NotFound
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.domain.points import shard_of
from inferbus_vectors.domain.reindexing import is_open
from inferbus_vectors.ports import VectorIndex

log = structlog.get_logger()


async def drop_if_unused(index: VectorIndex, book: CollectionBook, shard: str) -> bool:
    """Drop a shard unless it has a point (a gravestone is one), or a collection lies in it or moves there; says whether.

    A collection that is made after the collections were read finds no shard, and makes it anew; what was indexed into it
    before the shard goes keeps it, since the engine looks again.

    Raises:
        DependencyDown, EngineDead: it stays for now.
    """
    try:
        if (await index.stats(shard)).points:
            return False
    except NotFound:
        return False
    if shard in await _used(book):
        return False
    gone = await index.drop(shard, only_if_empty=True)
    if gone:
        log.info("empty_shard_dropped", shard=shard)
    return gone


async def _used(book: CollectionBook) -> set[str]:
    found = set[str]()
    for record in await book.of_all():
        if isinstance(record, CollectionRecord):
            moving = [record.reindexing.to] if record.reindexing is not None and is_open(record.reindexing) else []
            found |= {shard_of(place).name for place in (record.live, *moving)}
    return found
