"""Whole: documents as they are stored, all their chunks together. The engine gives chunks in an order of its own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from inferbus_vectors.domain.points import Found, Scope, Where
from inferbus_vectors.ports import VectorIndex

_READ = 512


class Documents(msgspec.Struct, frozen=True):
    """`whole` are documents with all their chunks, in order; one that is being written is not among them. `heads` are all
    that were looked at; `next` says where to go on, empty: that was all."""

    whole: list[list[Found]]
    heads: int
    next: str


async def read_documents(index: VectorIndex, shard: str, scope: Scope, *, after: str, limit: int) -> Documents:
    """Read the next documents, in the order of their heads."""
    page = await index.read(shard, Where(scope=scope, heads_only=True), after=after, limit=limit)
    return Documents(await read_whole(index, shard, scope, page.found), len(page.found), page.next)


async def read_whole(index: VectorIndex, shard: str, scope: Scope, heads: Sequence[Found]) -> list[list[Found]]:
    """Read the documents of some heads, with vectors."""
    chunks = await _chunks_of(index, shard, scope, [head.id for head in heads])
    return [chunks[head.id] for head in heads if _is_whole(head, chunks.get(head.id, []))]


async def _chunks_of(index: VectorIndex, shard: str, scope: Scope, documents: list[str]) -> dict[str, list[Found]]:
    found = dict[str, list[Found]]()
    after, is_more = "", bool(documents)
    while is_more:
        page = await index.read(
            shard, Where(scope=scope, documents=documents), after=after, limit=_READ, with_vector=True
        )
        for chunk in page.found:
            found.setdefault(chunk.id, []).append(chunk)
        after, is_more = page.next, bool(page.next)
    return {name: sorted(chunks, key=lambda chunk: chunk.chunk) for name, chunks in found.items()}


def _is_whole(head: Found, chunks: Sequence[Found]) -> bool:
    """Whether these are the document its head speaks of: otherwise it is being written."""
    same = all(chunk.version == head.version for chunk in chunks)
    return same and [chunk.chunk for chunk in chunks] == list(range(head.chunks))
