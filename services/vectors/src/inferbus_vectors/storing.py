"""Storing: a checked document made into chunks with vectors, and written wherever its collection lies."""

from __future__ import annotations

import msgspec

from inferbus.contracts.vectors import CollectionRecord, Placement
from inferbus.errors import NotFound, Permanent
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.domain.checking import Checked
from inferbus_vectors.domain.points import Chunk, Scope, Write, shard_of
from inferbus_vectors.domain.reindexing import written_places
from inferbus_vectors.embedding import TextEmbedding, Vector
from inferbus_vectors.ports import Payer, SparseEncoder, VectorIndex
from inferbus_vectors.writing import Writer


class Stored(msgspec.Struct, frozen=True):
    """What a document came to where its collection is searched, and the tokens that were read for it."""

    write: Write
    outcome: str
    tokens: float


class Storing:
    """One for all of a process."""

    def __init__(
        self, index: VectorIndex, embedding: TextEmbedding, sparse: SparseEncoder, splitter: Splitter, writer: Writer
    ) -> None:
        self._index = index
        self._embedding = embedding
        self._sparse = sparse
        self._splitter = splitter
        self._writer = writer
        self._ready: set[tuple[str, tuple[str, ...]]] = set()

    async def store(self, payer: Payer, record: CollectionRecord, one: Checked, now: float) -> Stored:
        """Store a document; while its collection moves, in both places.

        Raises:
            Permanent: it cannot be stored, for a reason of its own. Transient: later it may be.
        """
        tokens = 0.0
        texts = [] if one.delete else self._texts(record, one)
        reindexing = record.reindexing
        if reindexing is not None and len(written_places(record)) > 1:  # first: it must not miss what is found
            tokens += await self._beside(payer, record, reindexing.to, one, texts, now)
        vectors = await self._vectors(payer, record.live, one, texts)
        write = self._write_of(record, one, texts, [found.vector for found in vectors], now)
        outcome = await self._written(record, record.live, write)
        return Stored(write, outcome, tokens + sum(found.tokens for found in vectors))

    def _texts(self, record: CollectionRecord, one: Checked) -> list[str]:
        return [one.text] if one.vector is not None else self._splitter.split(one.text, record.chunking)

    async def _vectors(self, payer: Payer, place: Placement, one: Checked, texts: list[str]) -> list[Vector]:
        if one.delete:
            return []
        if one.vector is not None:
            return [Vector(one.vector, 0.0)]
        return await self._embedding.embed(payer, place.model, texts)

    async def _beside(
        self, payer: Payer, record: CollectionRecord, to: Placement, one: Checked, texts: list[str], now: float
    ) -> float:
        """Write a document where its collection is going. What has no place there is the reindexing's to count."""
        same = (to.model, to.dimension) == (record.live.model, record.live.dimension)
        again = bool(to.model) and not same and bool(one.text.strip()) and not one.delete
        try:
            if again:
                vectors = await self._embedding.embed(payer, to.model, texts)
            elif one.delete or one.vector is None or len(one.vector) == 4 * to.dimension:
                vectors = await self._vectors(payer, to, one, texts)
            else:
                return 0.0
            write = self._write_of(record, one, texts, [found.vector for found in vectors], now)
            await self._written(record, to, write)
        except NotFound:
            raise
        except Permanent:
            return 0.0
        return sum(found.tokens for found in vectors)

    def _write_of(
        self, record: CollectionRecord, one: Checked, texts: list[str], vectors: list[bytes], now: float
    ) -> Write:
        scope = Scope(record.tenant, record.id)
        chunks = [
            Chunk(vector=vector, text=text, sparse=self._sparse.document(text) if record.hybrid and text else None)
            for text, vector in zip(texts, vectors, strict=True)
        ]
        expires_at = one.expires_at or (now + record.retention_s if record.retention_s else 0.0)
        return Write(
            scope=scope, id=one.id, version=one.version, chunks=chunks, payload=one.payload, facets=one.facets, at=now,
            expires_at=0.0 if one.delete else expires_at,
        )  # fmt: skip

    async def _written(self, record: CollectionRecord, place: Placement, write: Write) -> str:
        await self._prepare(record, place)
        shard = shard_of(place).name
        try:
            return await self._writer.write(shard, write)
        except NotFound:  # it was dropped since it was made ready
            self._ready.clear()
            await self._prepare(record, place)
            return await self._writer.write(shard, write)

    async def _prepare(self, record: CollectionRecord, place: Placement) -> None:
        """See that a collection's shard is there, with its fields indexed: once in the life of this process."""
        spec = shard_of(place)
        key = (spec.name, tuple(f"{field.name}:{field.type}" for field in record.fields))
        if key in self._ready:
            return
        await self._index.ensure(spec)
        if record.fields:
            await self._index.index_fields(spec.name, record.fields)
        self._ready.add(key)
