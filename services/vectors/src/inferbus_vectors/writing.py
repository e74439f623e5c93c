"""Writing: documents of many messages in batches to the engine; one that the engine cannot take is found by halving."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from inferbus.errors import EngineDead, InferbusError, NotFound, Permanent, Poison, Transient
from inferbus_vectors.domain.points import STALE, Write
from inferbus_vectors.gathering import Gathering
from inferbus_vectors.ports import VectorIndex

_DEATHS, _DEATHS_ALONE = 2, 5
"""So often the engine may die under a batch before it is halved; and under one document, which is to blame then."""
_AT_ONCE = 2
"""Batches of a shard on their way: one that the engine works on, and one it finds when it is done."""
_PATIENCE_S = 30.0
_MOST_WAIT_S = 2.0
log = structlog.get_logger()


class _Batch(msgspec.Struct):
    """What is tried together; `deaths` of the engine under it so far."""

    writes: list[Write]
    deaths: int = 0


class Writer:
    """Writes to shards, in batches that grow while others are on their way. Two at once may have the same document: the engine
    keeps the newer state, whichever comes first."""

    def __init__(self, index: VectorIndex, *, chunks: int, wait_s: float) -> None:
        self._index = index
        self._gathering: Gathering[str, list[Write], list[str | InferbusError]] = Gathering(
            self._write, most=chunks, wait_s=wait_s, at_once=_AT_ONCE
        )

    async def write(self, shard: str, writes: list[Write]) -> list[str | InferbusError]:
        """Store documents, or take them out; gives what each came to, which is durable, or why the engine cannot take it,
        now or at all."""
        return await self._gathering.put(shard, writes, sum(max(1, len(write.chunks)) for write in writes))

    async def stop(self) -> None:
        await self._gathering.stop()

    async def _write(self, shard: str, groups: list[list[Write]]) -> list[list[str | InferbusError]]:
        """Write a batch, every document once: of several states the newest, and the others were older than it."""
        writes = [write for group in groups for write in group]
        newest: dict[tuple[str, str, str], int] = {}
        names = [(write.scope.tenant, write.scope.collection, write.id) for write in writes]
        for n, name in enumerate(names):
            before = newest.get(name)
            if before is None or writes[n].version >= writes[before].version:
                newest[name] = n
        chosen = sorted(newest.values())
        results = dict(zip(chosen, await self._written(shard, _Batch([writes[n] for n in chosen])), strict=True))
        outcomes: list[str | InferbusError] = []
        for n, name in enumerate(names):
            of_newest = results[newest[name]]
            # An older state counts as overtaken once the newer one is stored, and not before.
            outcomes.append(of_newest if n == newest[name] or isinstance(of_newest, InferbusError) else STALE)
        left = iter(outcomes)
        return [[next(left) for _ in group] for group in groups]

    async def _written(self, shard: str, batch: _Batch) -> list[str | InferbusError]:
        waited = 0.0
        while True:
            try:
                return list(await self._index.write(shard, batch.writes))
            except NotFound as error:  # the shard, not a document
                return [error] * len(batch.writes)
            except EngineDead as error:
                batch.deaths += 1
                if batch.deaths >= (_DEATHS if len(batch.writes) > 1 else _DEATHS_ALONE):
                    return await self._halved(
                        shard, batch, Poison(f"the engine died of this document: {error.message}")
                    )
                wait_s = error.retry_after_s
            except Transient as error:
                if waited >= _PATIENCE_S:
                    return [error] * len(batch.writes)
                wait_s = error.retry_after_s
            except Permanent as error:
                return await self._halved(shard, batch, error)
            wait_s = min(wait_s, _MOST_WAIT_S)
            waited += wait_s
            await asyncio.sleep(wait_s)

    async def _halved(self, shard: str, batch: _Batch, error: InferbusError) -> list[str | InferbusError]:
        if len(batch.writes) == 1:
            return [error]
        log.warning("batch_halved", shard=shard, documents=len(batch.writes), code=error.code, error=error.message)
        middle = len(batch.writes) // 2
        left = await self._written(shard, _Batch(batch.writes[:middle]))
        return left + await self._written(shard, _Batch(batch.writes[middle:]))
