"""ReindexDesk: a reindexing begun and ended, as somebody wishes. The work is the caretaker's."""

from __future__ import annotations

import time
from collections.abc import Callable

from inferbus.contracts.vector_manage import OneCollection, StartReindexing
from inferbus.contracts.vectors import ENDING, READY, CollectionRecord
from inferbus.errors import InvalidRequest
from inferbus_vectors.collection_book import CollectionBook, unknown
from inferbus_vectors.collection_desk import CollectionDesk
from inferbus_vectors.domain.points import Scope, Where, shard_of
from inferbus_vectors.domain.reindexing import begun, moved, next_generation
from inferbus_vectors.ports import Payer, VectorIndex


class ReindexDesk:
    def __init__(
        self, book: CollectionBook, index: VectorIndex, desk: CollectionDesk, clock: Callable[[], float] = time.time
    ) -> None:
        self._book = book
        self._index = index
        self._desk = desk
        self._clock = clock

    async def start(self, payer: Payer, asked: StartReindexing) -> CollectionRecord:
        """Have a collection moved to another placement.

        Raises:
            NotFound: there is no such collection or model. Conflict: it is on its way somewhere. InvalidRequest: the
                message names the field.
        """
        if not 0.0 <= asked.keep_s <= 30 * 86_400.0:
            raise InvalidRequest("keep_s: 0 to 30 days are possible", param="keep_s")
        known = await self._book.collection(payer.tenant, asked.name)
        if known.state != READY:
            raise unknown(asked.name)
        wanted = await self._desk.placement(payer, asked.model, asked.dimension, asked.distance or known.live.distance)
        total = await self._index.count(
            shard_of(known.live).name, Where(scope=Scope(known.tenant, known.id), heads_only=True)
        )

        def decide(record: CollectionRecord) -> CollectionRecord:
            to = next_generation(record, wanted.model, wanted.dimension, wanted.distance)
            return begun(record, to, keep_s=asked.keep_s, total=total, key_id=payer.key_id, now=self._clock())

        return await self._book.change(known, decide)

    async def end(self, payer: Payer, asked: OneCollection) -> CollectionRecord:
        """End a reindexing: the collection is as it was, or where it was swapped and the old placement is kept still, as it
        was before.

        Raises:
            NotFound: there is no such collection. Conflict: there is nothing to end.
        """
        known = await self._book.collection(payer.tenant, asked.name)
        return await self._book.change(known, lambda record: moved(record, ENDING, self._clock()))
