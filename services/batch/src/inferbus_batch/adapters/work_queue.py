"""What lies in the queue of work: which requests of a tenant are waiting or running there."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import structlog

from inferbus import routes
from inferbus.answers.exchange import Stored
from inferbus.bus import Bus
from inferbus.bus.stored import read_page
from inferbus.contracts.groups import ROWS_HEADER, rows_from
from inferbus.contracts.models import ModelEntry
from inferbus.errors import InvalidRequest
from inferbus.queue.buckets import bucket_for

_REQUEST = "Ib-Request"
log = structlog.get_logger()


class Queued(msgspec.Struct, frozen=True):
    """What lies in the queue: requests, groups of rows among them, and what rows those have."""

    requests: dict[str, Stored]
    groups: dict[str, frozenset[str]]


async def queued_requests(bus: Bus, tenant: str, entries: Iterable[ModelEntry]) -> Queued:
    """Read which requests of a tenant are in the batch lane of these models, waiting or running. They are as many as batch
    processes have in flight.

    Raises:
        DependencyDown: the bus is away.
    """
    found = Queued({}, {})
    for stream, subject in {_place(bus.region, tenant, entry) for entry in entries}:
        seq, left = 1, 1
        while left:
            page, left = await read_page(bus, stream, subject, seq)
            for message in page:
                request_id = message.headers.get(_REQUEST, "")
                found.requests[request_id] = Stored(stream, message.seq)
                if ROWS_HEADER in message.headers:
                    found.groups[request_id] = _rows_in(message.data)
                seq = message.seq + 1
            left = left if page else 0
    return found


def _rows_in(data: bytes) -> frozenset[str]:
    try:
        return frozenset(row.request_id for row in rows_from(data))
    except InvalidRequest as error:  # its worker finds that too, and nothing comes of it
        log.warning("group_unreadable", error=error.message)
        return frozenset()


def _place(region: str, tenant: str, entry: ModelEntry) -> tuple[str, str]:
    subject = routes.infer(
        region=region, runtime=entry.runtime, pool=entry.pool, lane=routes.BATCH,
        bucket=bucket_for(entry.buckets, tenant), tenant=tenant,
    )  # fmt: skip
    return routes.stream_infer(region, entry.runtime, routes.BATCH), subject
