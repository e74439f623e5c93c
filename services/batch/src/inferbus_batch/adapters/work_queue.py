"""What lies in the queue of work: which requests of a tenant are waiting or running there."""

from __future__ import annotations

from collections.abc import Iterable

from inferbus import routes
from inferbus.answers.exchange import Stored
from inferbus.bus import Bus
from inferbus.bus.stored import read_page
from inferbus.contracts.models import ModelEntry
from inferbus.queue.buckets import bucket_for

_REQUEST = "Ib-Request"


async def queued_requests(bus: Bus, tenant: str, entries: Iterable[ModelEntry]) -> dict[str, Stored]:
    """Read which requests of a tenant are in the batch lane of these models, waiting or running. They are as many as batch
    processes have in flight.

    Raises:
        DependencyDown: the bus is away.
    """
    found: dict[str, Stored] = {}
    for stream, subject in {_place(bus.region, tenant, entry) for entry in entries}:
        seq, left = 1, 1
        while left:
            page, left = await read_page(bus, stream, subject, seq)
            for message in page:
                found[message.headers.get(_REQUEST, "")] = Stored(stream, message.seq)
                seq = message.seq + 1
            left = left if page else 0
    return found


def _place(region: str, tenant: str, entry: ModelEntry) -> tuple[str, str]:
    subject = routes.infer(
        region=region, runtime=entry.runtime, pool=entry.pool, lane=routes.BATCH,
        bucket=bucket_for(entry.buckets, tenant), tenant=tenant,
    )  # fmt: skip
    return routes.stream_infer(region, entry.runtime, routes.BATCH), subject
