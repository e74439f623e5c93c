"""Sweeping: gravestones that nobody needs any more are removed, and shards that have grown get their graphs."""

from __future__ import annotations

import asyncio
import time

import structlog

from inferbus.errors import InferbusError, NotFound
from inferbus_vectors.ports import VectorIndex
from inferbus_vectors.settings import VectorsSettings

_GROWN = 0.25
log = structlog.get_logger()


async def sweep_for_ever(index: VectorIndex, settings: VectorsSettings) -> None:
    """Go over all shards every now and then."""
    while True:
        await asyncio.sleep(settings.sweep_every_s)
        try:
            shards = await index.shards()
        except InferbusError as error:
            log.info("sweep_waits", error=error.message)
            continue
        for shard in shards:
            try:
                await sweep(index, shard, settings, now=time.time())
            except NotFound:
                continue
            except InferbusError as error:
                log.info("sweep_waits", shard=shard, error=error.message)


async def sweep(index: VectorIndex, shard: str, settings: VectorsSettings, *, now: float) -> None:
    """Go over one shard."""
    gone = await index.sweep(shard, older_than=now - settings.gravestones_s)
    stats = await index.stats(shard)
    if gone:
        log.info("gravestones_swept", shard=shard, count=gone)
    bare = stats.points - stats.indexed
    if stats.points >= settings.optimise_points and bare > _GROWN * stats.points and not stats.optimising:
        log.info("shard_optimising", shard=shard, points=stats.points, indexed=stats.indexed)
        await index.optimise(shard)
        log.info("shard_optimised", shard=shard, points=stats.points)
