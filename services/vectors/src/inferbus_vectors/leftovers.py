"""Leftovers: what a tenant has on the bus besides collections: watchlists, their hits, and dead letters of its documents."""

from __future__ import annotations

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.bus.stored import read_page

_BUCKETS = (routes.KV_WATCHLISTS, routes.KV_WATCH_HITS)


async def clear_leftovers(bus: Bus, tenant: str) -> None:
    """Remove all of it.

    Raises:
        DependencyDown: the bus is away; asking again goes on.
    """
    for bucket in _BUCKETS:
        for key in await revisions.read_keys(bus, bucket, routes.tenant_key(tenant, "")):
            await bus.kv_delete(bucket, key)
    subject, seq, left = routes.dlq(routes.vectors_index(tenant, "*")), 1, 1
    while left:
        page, left = await read_page(bus, routes.STREAM_DLQ, subject, seq)
        for letter in page:
            await bus.remove(routes.STREAM_DLQ, letter.seq)
            seq = letter.seq + 1
        left = left if page else 0
