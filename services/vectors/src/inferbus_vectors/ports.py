"""What the service needs of the outside: an engine for vectors, somebody who embeds, and sparse vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from inferbus.contracts.vectors import CollectionRecord, Field
from inferbus_vectors.domain.points import Found, FoundPage, Query, ShardSpec, ShardStats, Sparse, Where, Write


class VectorIndex(Protocol):
    """An engine. Every call may raise `EngineDead` or `DependencyDown` (it is away and comes back: ask again), `Overloaded`
    (later), `NotFound` (no such shard), and `InvalidRequest` (never, whatever one waits).

    What `write`, `erase`, `drop` have returned from survives any kill of any process.
    """

    async def ensure(self, shard: ShardSpec) -> None:
        """Make a shard, with the indexes every search needs; one that is there stays as it is."""
        ...

    async def drop(self, shard: str, *, only_if_empty: bool = False) -> bool:
        """Remove a shard and all that is in it, or `only_if_empty` one without a point (a gravestone is one); one that is
        not there stays so. Says whether it is gone; nothing is written between the look and the removal."""
        ...

    async def shards(self) -> list[str]:
        """Name all shards."""
        ...

    async def index_fields(self, shard: str, fields: Sequence[Field]) -> None:
        """See that facets of these fields and types are indexed."""
        ...

    async def write(self, shard: str, writes: Sequence[Write]) -> list[str]:
        """Store or take out documents, each wholly or not at all as far as its head tells; no document twice in a call.

        Returns: what each came to: indexed, deleted or stale.
        """
        ...

    async def erase(self, shard: str, where: Where) -> int:
        """Remove points for good, gravestones too where a whole scope is meant. Returns how many chunks there were."""
        ...

    async def sweep(self, shard: str, *, older_than: float) -> int:
        """Remove gravestones made before a time (Unix seconds)."""
        ...

    async def search(self, shard: str, query: Query) -> list[Found]:
        """Find chunks, the best first."""
        ...

    async def read(
        self, shard: str, where: Where, *, after: str = "", limit: int = 100, with_vector: bool = False
    ) -> FoundPage:
        """Read chunks in the order of their points' names, a page at a time."""
        ...

    async def count(self, shard: str, where: Where) -> int:
        """Count chunks, exactly; with `heads_only`, documents."""
        ...

    async def stats(self, shard: str) -> ShardStats: ...

    async def optimise(self, shard: str) -> None:
        """Have the shard searched by graph from now on; returns when it is, and searches and writes go on meanwhile."""
        ...

    async def stop(self) -> None:
        """Let go of it."""
        ...


class Payer(msgspec.Struct, frozen=True):
    """Who is charged: a tenant, by one of its keys or itself (`key_id` empty)."""

    tenant: str
    key_id: str = ""


class Embedded(msgspec.Struct, frozen=True):
    """A vector for each text, in order (little-endian 32-bit floats), and the tokens that were read."""

    vectors: list[bytes]
    tokens: int


class Embedder(Protocol):
    """Makes vectors of texts by a model of the registry, on a lane, charged as any embedding."""

    async def embed(
        self, payer: Payer, model: str, texts: Sequence[str], *, lane: str, deadline_s: float, traceparent: str = ""
    ) -> Embedded:
        """Embed texts.

        Raises:
            Permanent: these texts, or this model, never; of several texts one may be to blame.
            Transient: later it may work.
        """
        ...


class SparseEncoder(Protocol):
    """BM25. The engines add the rarity of words (IDF) themselves."""

    def document(self, text: str) -> Sparse: ...

    def query(self, text: str) -> Sparse: ...


class Watcher(Protocol):
    """Is shown what was stored before its message is acknowledged."""

    async def on_written(self, payer: Payer, collection: CollectionRecord, writes: Sequence[Write]) -> int:
        """Look at documents; doing it again is safe.

        Raises:
            Transient: not all could be looked at.
        """
        ...
