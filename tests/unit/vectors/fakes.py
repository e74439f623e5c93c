"""Fakes of the vector service's ports: an engine in memory, and a model that hashes words."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from inferbus.contracts.vectors import Field
from inferbus.errors import NotFound
from inferbus_vectors.domain.points import (
    DELETED,
    INDEXED,
    STALE,
    Chunk,
    Found,
    FoundPage,
    Query,
    Scope,
    ShardSpec,
    ShardStats,
    Sparse,
    Where,
    Write,
    point_id,
)  # fmt: skip
from inferbus_vectors.ports import Embedded, Payer
from inferbus_vectors.searching import Asked, Scored


class _Point(msgspec.Struct, frozen=True, kw_only=True):
    write: Write
    number: int
    chunk: Chunk | None


class MemoryIndex:
    """Implements `VectorIndex`. `before` is called with every call's name: a test lets things happen there."""

    def __init__(self) -> None:
        self.points: dict[str, dict[str, _Point]] = {}
        self.before: Callable[[str, str], Any] = lambda _call, _shard: None

    async def ensure(self, shard: ShardSpec) -> None:
        self.points.setdefault(shard.name, {})

    async def drop(self, shard: str, *, only_if_empty: bool = False) -> bool:
        self.before("drop", shard)
        if only_if_empty and self.points.get(shard):
            return False
        self.points.pop(shard, None)
        return True

    async def shards(self) -> list[str]:
        return sorted(self.points)

    async def index_fields(self, shard: str, fields: Sequence[Field]) -> None:
        self._of(shard)

    async def write(self, shard: str, writes: Sequence[Write]) -> list[str]:
        self.before("write", shard)
        return [self._write(self._of(shard), one) for one in writes]

    def _write(self, points: dict[str, _Point], write: Write) -> str:
        head = points.get(point_id(write.scope, write.id, 0))
        if head is not None and head.write.version >= write.version:
            return STALE
        for name in [
            name for name, one in points.items() if one.write.scope == write.scope and one.write.id == write.id
        ]:
            del points[name]
        for number, chunk in enumerate(write.chunks or [None]):
            points[point_id(write.scope, write.id, number)] = _Point(write=write, number=number, chunk=chunk)
        return INDEXED if write.chunks else DELETED

    async def erase(self, shard: str, where: Where) -> int:
        self.before("erase", shard)
        found = [name for name, _ in self._matching(shard, where, heads=False)]
        for name in found:
            del self.points[shard][name]
        return len(found)

    async def sweep(self, shard: str, *, older_than: float) -> int:
        return 0

    async def search(self, shard: str, query: Query) -> list[Found]:
        self.before("search", shard)
        wanted = query.dense
        assert wanted is not None
        found = [
            self._found(one, score=_cosine(one.chunk, wanted), with_vector=query.with_vector)
            for _, one in self._matching(shard, query.where)
        ]
        found.sort(key=lambda one: -one.score)
        kept = [one for one in found if query.threshold is None or one.score >= query.threshold]
        return kept[query.offset : query.offset + query.limit]

    async def read(
        self, shard: str, where: Where, *, after: str = "", limit: int = 100, with_vector: bool = False
    ) -> FoundPage:
        self.before("read", shard)
        left = [(name, one) for name, one in self._matching(shard, where) if name > after]
        page = left[:limit]
        found = [self._found(one, with_vector=with_vector) for _, one in page]
        return FoundPage(found=found, next=page[-1][0] if len(left) > limit else "")

    async def count(self, shard: str, where: Where) -> int:
        return len(self._matching(shard, where))

    async def stats(self, shard: str) -> ShardStats:
        return ShardStats(points=len(self._of(shard)))

    async def optimise(self, shard: str) -> None:
        return

    async def stop(self) -> None:
        return

    def versions(self, shard: str, scope: Scope) -> dict[str, int]:
        """Say what is there, by document."""
        return {
            one.write.id: one.write.version for _, one in self._matching(shard, Where(scope=scope, heads_only=True))
        }

    def _of(self, shard: str) -> dict[str, _Point]:
        if shard not in self.points:
            raise NotFound(f"no shard {shard}")
        return self.points[shard]

    def _matching(self, shard: str, where: Where, *, heads: bool = True) -> list[tuple[str, _Point]]:
        return [
            (name, one)
            for name, one in sorted(self._of(shard).items())
            if one.chunk is not None
            and one.write.scope.tenant == where.scope.tenant
            and where.scope.collection in ("", one.write.scope.collection)
            and (where.documents is None or one.write.id in where.documents)
            and one.write.id not in where.not_documents
            and not (where.heads_only and one.number)
            and not (where.alive_at and 0 < one.write.expires_at <= where.alive_at)
        ]

    @staticmethod
    def _found(point: _Point, *, score: float = 0.0, with_vector: bool = False) -> Found:
        write, chunk = point.write, point.chunk
        assert chunk is not None
        return Found(
            id=write.id, chunk=point.number, version=write.version, score=score, payload=write.payload, text=chunk.text,
            vector=chunk.vector if with_vector else None, collection=write.scope.collection, chunks=len(write.chunks),
            at=write.at, expires_at=write.expires_at,
        )  # fmt: skip


def _cosine(chunk: Chunk | None, wanted: bytes) -> float:
    assert chunk is not None
    one, other = (struct.unpack(f"<{len(data) // 4}f", data) for data in (chunk.vector, wanted))
    size = math.sqrt(sum(a * a for a in one) * sum(b * b for b in other)) or 1.0
    return sum(a * b for a, b in zip(one, other, strict=True)) / size


class WordEmbedder:
    """Implements `Embedder`: a text's vector has the words it is made of. `dimensions` by model; others are unknown."""

    def __init__(self, **dimensions: int) -> None:
        self.dimensions = dimensions
        self.asked: list[tuple[str, str, str]] = []
        self.fails: Callable[[str], Exception | None] = lambda _: None

    async def embed(
        self, payer: Payer, model: str, texts: Sequence[str], *, lane: str, deadline_s: float, traceparent: str = ""
    ) -> Embedded:
        if model not in self.dimensions:
            raise NotFound(f"The model `{model}` does not exist")
        self.asked += [(model, lane, text) for text in texts]
        for text in texts:
            if (error := self.fails(text)) is not None:
                raise error
        return Embedded(
            [vector_of(text, self.dimensions[model]) for text in texts], sum(len(text.split()) for text in texts)
        )


def vector_of(text: str, dimension: int) -> bytes:
    """Give the vector a text has."""
    numbers = defaultdict[int, float](float)
    for word in text.lower().split():
        numbers[hashlib.sha256(word.encode()).digest()[0] % dimension] += 1.0
    size = math.sqrt(sum(number * number for number in numbers.values())) or 1.0
    return struct.pack(f"<{dimension}f", *(numbers[at] / size for at in range(dimension)))


class NoSparse:
    def document(self, text: str) -> Sparse:
        return Sparse([], [])

    def query(self, text: str) -> Sparse:
        return Sparse([], [])


class LengthReranker:
    """Implements `Reranker`: a longer text is a better one."""

    async def score(self, asked: Asked, model: str, query: str, texts: Sequence[str]) -> Scored:
        return Scored([float(len(text)) for text in texts], 1)
