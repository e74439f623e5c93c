"""Moving: documents of a collection copied from one placement to another, and both compared. What `reindexing` decides is
carried out here, some documents at a time; who does it, and until when, is `reindexer`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from inferbus import routes
from inferbus.contracts.vectors import Chunking, CollectionRecord, Field, Placement
from inferbus.errors import InvalidRequest, Permanent
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.domain.facets import facets_of
from inferbus_vectors.domain.points import Chunk, Found, Scope, Where, Write, point_id, shard_of
from inferbus_vectors.domain.reindexing import compare
from inferbus_vectors.ports import Embedder, Payer, SparseEncoder, VectorIndex
from inferbus_vectors.splitting import FINER, can_be_finer
from inferbus_vectors.whole import read_whole

_PAGE = 64
_COMPARED = 1000
_TEXTS = 32
_AT_ONCE = 4
_EMBED_S = 600.0


class MovingDeps(msgspec.Struct, frozen=True, kw_only=True):
    index: VectorIndex
    embedder: Embedder
    sparse: SparseEncoder
    splitter: Splitter


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """From where to where, of which collection; `payer` is charged for embeddings."""

    record: CollectionRecord
    source: Placement
    target: Placement
    payer: Payer

    @property
    def scope(self) -> Scope:
        return Scope(self.record.tenant, self.record.id)

    @property
    def embeds(self) -> bool:
        """Whether texts need new vectors: another model reads them."""
        same = self.source.model == self.target.model and self.source.dimension == self.target.dimension
        return bool(self.target.model) and not same


class Copied(msgspec.Struct, frozen=True):
    """What became of some documents: `cursor` is where to go on (empty: that was all); `failed` cannot move at all."""

    cursor: str
    documents: int
    failed: tuple[str, ...] = ()


class Compared(msgspec.Struct, frozen=True):
    """One comparison of everything: documents that differed and were mended. Those that differed for longer than a write
    takes say that somebody writes to one place only."""

    mended: int
    long_since: int


class Moving:
    """Copies and compares; one for all of a process."""

    def __init__(self, deps: MovingDeps) -> None:
        self._deps = deps

    async def copy_next(self, way: Way, cursor: str) -> Copied:
        """Copy some documents, those after a place in the order of heads. Copying again changes nothing.

        Raises:
            Transient: the engine, or the model, cannot be asked now. Permanent: nobody may ask the model for this tenant.
        """
        where = Where(scope=way.scope, heads_only=True)
        page = await self._deps.index.read(shard_of(way.source).name, where, after=cursor, limit=_PAGE)
        failed = await self._copy(way, page.found)
        return Copied(page.next, len(page.found), failed)

    async def compare_all(self, way: Way, *, now: Callable[[], float], recent_s: float) -> Compared:
        """Compare both placements from end to end, and copy or remove what differs. A document that was written less than
        `recent_s` ago may be on its way to the other one, and says nothing. Raises as `copy_next`."""
        after, mended, long_since = "", 0, 0
        where = Where(scope=way.scope, heads_only=True)
        index, source, target = self._deps.index, shard_of(way.source).name, shard_of(way.target).name
        while True:
            there = await index.read(target, where, after=after, limit=_COMPARED)
            here = await index.read(source, where, after=after, limit=_COMPARED)
            ends = [self._name(way, page.found[-1]) for page in (there, here) if page.next and page.found]
            upto = min(ends, default="")
            heads, copies = self._upto(way, here.found, upto), self._upto(way, there.found, upto)
            differ = compare(
                {one: head.version for one, head in heads.items()}, {one: head.version for one, head in copies.items()}
            )
            await self._copy(way, [heads[one] for one in differ.stale])
            # What came just now is on its way to the source still.
            gone = await self._remove_extra(way, [one for one in differ.extra if copies[one].at < now() - recent_s])
            mended += len(differ.stale) + gone
            long_since += sum(heads[one].at < now() - recent_s for one in differ.stale) + gone
            if not upto:
                return Compared(mended, long_since)
            after = upto

    @staticmethod
    def _name(way: Way, head: Found) -> str:
        return point_id(way.scope, head.id, 0)

    def _upto(self, way: Way, heads: Sequence[Found], upto: str) -> dict[str, Found]:
        return {head.id: head for head in heads if not upto or self._name(way, head) <= upto}

    async def _remove_extra(self, way: Way, documents: Sequence[str]) -> int:
        """Take out of the target what the source has no more; what came back meanwhile stays."""
        if not documents:
            return 0
        where = Where(scope=way.scope, documents=list(documents), heads_only=True)
        page = await self._deps.index.read(shard_of(way.source).name, where, limit=len(documents))
        gone = sorted(set(documents) - {head.id for head in page.found})
        if gone:
            await self._deps.index.erase(shard_of(way.target).name, Where(scope=way.scope, documents=gone))
        return len(gone)

    # --- copying ------------------------------------------------------------------------------------------------------

    async def _copy(self, way: Way, heads: Sequence[Found]) -> tuple[str, ...]:
        """Copy the documents of some heads; returns those that cannot be."""
        failed = list[str]()
        for at in range(0, len(heads), _PAGE):
            some = heads[at : at + _PAGE]
            whole = await read_whole(self._deps.index, shard_of(way.source).name, way.scope, some)
            fitting = [document for document in whole if self._can_move(way, document)]
            failed += [document[0].id for document in whole if not self._can_move(way, document)]
            movable, vectors = await self._cut_to_fit(way, fitting)
            failed += [document[0].id for document, made in zip(movable, vectors, strict=True) if made is None]
            writes = [
                self._write_of(way, document, made)
                for document, made in zip(movable, vectors, strict=True)
                if made is not None
            ]
            if writes:
                await self._deps.index.write(shard_of(way.target).name, writes)
        return tuple(failed)

    @staticmethod
    def _can_move(way: Way, document: Sequence[Found]) -> bool:
        """Whether every chunk has a text to be read by the model, or a vector that fits as it is."""
        size = 4 * way.target.dimension
        return all(
            (way.embeds and chunk.text) or (chunk.vector is not None and len(chunk.vector) == size)
            for chunk in document
        )

    async def _cut_to_fit(
        self, way: Way, documents: Sequence[Sequence[Found]]
    ) -> tuple[list[Sequence[Found]], list[list[bytes] | None]]:
        """Give documents and their vectors; one whose texts are too long for the target's model with finer chunks."""
        cut, vectors = list[Sequence[Found]](documents), await self._vectors(way, documents)
        for _ in range(FINER):
            at = [n for n, made in enumerate(vectors) if made is None and can_be_finer([one.text for one in cut[n]])]
            if not at or not way.record.chunking.max_chars:
                break
            for n in at:
                cut[n] = self._finer(cut[n])
            again = await self._vectors(way, [cut[n] for n in at])
            for n, made in zip(at, again, strict=True):
                vectors[n] = made
        return cut, vectors

    def _finer(self, document: Sequence[Found]) -> list[Found]:
        """Cut each chunk of a document in two, or more where words end so."""
        most = max(len(chunk.text) for chunk in document) // 2
        pieces = [
            msgspec.structs.replace(chunk, text=text)
            for chunk in document
            for text in (self._deps.splitter.split(chunk.text, Chunking(max_chars=most)) if chunk.text else [""])
        ]
        return [msgspec.structs.replace(one, chunk=n) for n, one in enumerate(pieces)]

    async def _vectors(self, way: Way, documents: Sequence[Sequence[Found]]) -> list[list[bytes] | None]:
        """Give the chunks' vectors in the target for each document; None for one whose texts the model refuses."""
        if not way.embeds:
            return [[chunk.vector or b"" for chunk in document] for document in documents]
        texts = [chunk.text for document in documents for chunk in document if chunk.text]
        limit = asyncio.Semaphore(_AT_ONCE)

        async def some(at: int) -> list[bytes | None]:
            async with limit:
                return await self._embedded(way, texts[at : at + _TEXTS])

        batches = await asyncio.gather(*(some(at) for at in range(0, len(texts), _TEXTS)))
        made = iter([vector for batch in batches for vector in batch])
        found = list[list[bytes] | None]()
        for document in documents:
            vectors = [next(made) if chunk.text else chunk.vector for chunk in document]
            whole = [vector for vector in vectors if vector is not None]
            found.append(whole if len(whole) == len(vectors) else None)
        return found

    async def _embedded(self, way: Way, texts: Sequence[str]) -> list[bytes | None]:
        """Embed texts; where one of several is to blame it is found by halving."""
        try:
            embedded = await self._deps.embedder.embed(
                way.payer, way.target.model, texts, lane=routes.BATCH, deadline_s=_EMBED_S
            )
        except Permanent as error:
            if len(texts) > 1:
                half = len(texts) // 2
                return await self._embedded(way, texts[:half]) + await self._embedded(way, texts[half:])
            if error.code in ("invalid_request", "too_large"):
                return [None]
            raise
        return list(embedded.vectors)

    def _write_of(self, way: Way, document: Sequence[Found], vectors: Sequence[bytes]) -> Write:
        head = document[0]
        chunks = [
            Chunk(
                vector=vector, text=chunk.text,
                sparse=self._deps.sparse.document(chunk.text) if way.record.hybrid and chunk.text else None,
            )
            for chunk, vector in zip(document, vectors, strict=True)
        ]  # fmt: skip
        return Write(
            scope=way.scope, id=head.id, version=head.version, chunks=chunks, payload=head.payload,
            facets=_facets_of(head.payload, way.record.fields), at=head.at, expires_at=head.expires_at,
        )  # fmt: skip


def _facets_of(payload: bytes, fields: Sequence[Field]) -> bytes:
    """Give the facets of what is indexed already: where a field that came later is of another type here, without that."""
    try:
        return facets_of(payload, fields)
    except InvalidRequest as error:
        fitting = [field for field in fields if error.param != f"payload.{field.name}"]
        if len(fitting) == len(fields):
            return b"{}"
        return _facets_of(payload, fitting)
