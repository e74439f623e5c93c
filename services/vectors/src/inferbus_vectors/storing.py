"""Storing: a checked document made into chunks with vectors, and written wherever its collection lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from inferbus.contracts.vectors import Chunking, CollectionRecord, Placement
from inferbus.errors import Forbidden, InferbusError, InvalidRequest, NotFound, Permanent, Unauthenticated
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.domain.checking import Checked
from inferbus_vectors.domain.points import Chunk, Scope, Write, shard_of
from inferbus_vectors.domain.reindexing import written_places
from inferbus_vectors.embedding import TextEmbedding, Vector
from inferbus_vectors.ports import Payer, SparseEncoder, VectorIndex
from inferbus_vectors.splitting import FINER, can_be_finer
from inferbus_vectors.writing import Writer


class Stored(msgspec.Struct, frozen=True):
    """What a document came to where its collection is searched, and the tokens that were read for it."""

    write: Write
    outcome: str
    tokens: float


class _Cut(NamedTuple):
    """A document and its texts, one for each chunk."""

    document: Checked
    texts: list[str]


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

    async def store(
        self, payer: Payer, record: CollectionRecord, documents: Sequence[Checked], now: float
    ) -> list[Stored | InferbusError]:
        """Store documents, each once; while their collection moves, in both places. Gives what each came to, or why it
        cannot be stored.

        Raises:
            Transient: not all could be stored now; storing them again changes nothing.
        """
        cut = [_Cut(one, self._texts(record, one)) for one in documents]
        reindexing, beside = record.reindexing, 0.0
        if reindexing is not None and len(written_places(record)) > 1:  # first: it must not miss what is found
            results = await self._store_in(payer, record, reindexing.to, cut, now)
            beside = sum(one.tokens for one in results if isinstance(one, Stored)) / max(1, len(cut))
        stored = await self._store_in(payer, record, record.live, cut, now)
        return [
            msgspec.structs.replace(one, tokens=one.tokens + beside) if beside and isinstance(one, Stored) else one
            for one in stored
        ]

    def _texts(self, record: CollectionRecord, one: Checked) -> list[str]:
        if one.delete:
            return []
        return [one.text] if one.vector is not None else self._splitter.split(one.text, _chunking(record, one))

    async def _store_in(
        self, payer: Payer, record: CollectionRecord, place: Placement, cut: list[_Cut], now: float
    ) -> list[Stored | InferbusError]:
        """Store documents in a place. Chunks are counted in characters and models read tokens: what is refused as text is cut
        finer and tried again."""
        results = await self._tried_in(payer, record, place, cut, now)
        for _ in range(FINER):
            refused = [n for n, one in enumerate(results) if isinstance(one, InvalidRequest) and one.param == "text"]
            finer = {n: self._finer(record, cut[n]) for n in refused if _can_be_finer(record, cut[n])}
            if not finer:
                break
            cut = [finer.get(n, one) for n, one in enumerate(cut)]
            again = await self._tried_in(payer, record, place, list(finer.values()), now)
            for n, result in zip(finer, again, strict=True):
                results[n] = result
        return results

    def _finer(self, record: CollectionRecord, cut: _Cut) -> _Cut:
        most, overlap = max(map(len, cut.texts)) // 2, _chunking(record, cut.document).overlap_chars
        chunking = Chunking(max_chars=most, overlap_chars=min(overlap, most // 4))
        return _Cut(cut.document, self._splitter.split(cut.document.text, chunking))

    async def _tried_in(
        self, payer: Payer, record: CollectionRecord, place: Placement, cut: list[_Cut], now: float
    ) -> list[Stored | InferbusError]:
        results: dict[int, Stored | InferbusError] = {}
        writes: dict[int, tuple[Write, float]] = {}
        for n, vectors in enumerate(await self._vectors(payer, record, place, cut)):
            if isinstance(vectors, InferbusError):
                results[n] = vectors
                continue
            write = self._write_of(record, cut[n], [found.vector for found in vectors], now)
            writes[n] = (write, sum(found.tokens for found in vectors))
        outcomes = await self._written(record, place, [write for write, _ in writes.values()])
        for (n, (write, tokens)), outcome in zip(writes.items(), outcomes, strict=True):
            results[n] = outcome if isinstance(outcome, InferbusError) else Stored(write, outcome, tokens)
        _raise_transient(results.values())
        return [results[n] for n in range(len(cut))]

    async def _vectors(
        self, payer: Payer, record: CollectionRecord, place: Placement, cut: list[_Cut]
    ) -> list[list[Vector] | InferbusError]:
        """Give every document's vectors for a place, one for each of its texts: its own, or those its model makes."""
        is_other = (place.model, place.dimension) != (record.live.model, record.live.dimension)
        found: list[list[Vector] | InferbusError] = []
        to_embed: list[int] = []
        for n, (one, _) in enumerate(cut):
            if one.delete:
                found.append([])
            elif one.vector is None or (is_other and place.model and one.text.strip()):
                to_embed.append(n)
                found.append([])
            elif len(one.vector) == 4 * place.dimension:
                found.append([Vector(one.vector, 0.0)])
            else:  # the reindexing counts it
                found.append(InvalidRequest("its vector has no place in the other model's collection", param="vector"))
        if to_embed:
            flat = iter(
                await self._embedding.embed(payer, place.model, [text for n in to_embed for text in cut[n].texts])
            )
            for n in to_embed:
                found[n] = _fitting([next(flat) for _ in cut[n].texts], place)
        return found

    def _write_of(self, record: CollectionRecord, cut: _Cut, vectors: list[bytes], now: float) -> Write:
        one = cut.document
        chunks = [
            Chunk(vector=vector, text=text, sparse=self._sparse.document(text) if record.hybrid and text else None)
            for text, vector in zip(cut.texts, vectors, strict=True)
        ]
        expires_at = one.expires_at or (now + record.retention_s if record.retention_s else 0.0)
        return Write(
            scope=Scope(record.tenant, record.id), id=one.id, version=one.version, chunks=chunks, payload=one.payload,
            facets=one.facets, at=now, expires_at=0.0 if one.delete else expires_at,
        )  # fmt: skip

    async def _written(
        self, record: CollectionRecord, place: Placement, writes: list[Write]
    ) -> list[str | InferbusError]:
        if not writes:
            return []
        await self._prepare(record, place)
        shard = shard_of(place).name
        outcomes = await self._writer.write(shard, writes)
        if any(isinstance(outcome, NotFound) for outcome in outcomes):  # it was dropped since it was made ready
            self._ready.clear()
            await self._prepare(record, place)
            outcomes = await self._writer.write(shard, writes)
        return outcomes

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


def _chunking(record: CollectionRecord, one: Checked) -> Chunking:
    """Say how a document is cut: as it wants itself, or as its collection does."""
    return one.document.chunking or record.chunking


def _can_be_finer(record: CollectionRecord, cut: _Cut) -> bool:
    """Whether a document's own text is cut at all, and may be cut into smaller ones."""
    return _chunking(record, cut.document).max_chars > 0 and cut.document.vector is None and can_be_finer(cut.texts)


def _fitting(vectors: list[Vector | InferbusError], place: Placement) -> list[Vector] | InferbusError:
    """Give a document's vectors, or what is wrong with the first that is none."""
    good: list[Vector] = []
    for one in vectors:
        if isinstance(one, InferbusError):
            return one
        if len(one.vector) != 4 * place.dimension:
            wrong = f"the model {place.model} made {len(one.vector) // 4} numbers, this collection's vectors have"
            return InvalidRequest(f"{wrong} {place.dimension}", param="text")
        good.append(one)
    return good


def _raise_transient(results: Iterable[object]) -> None:
    for one in results:
        if isinstance(one, InferbusError) and not isinstance(one, Permanent):
            raise one
        if isinstance(
            one, NotFound | Forbidden | Unauthenticated
        ):  # of the place, the model or the payer: of all of them
            raise one
