"""PartBook: the stream `BATCH_PARTS`. The first result of a chunk that is committed is the one that counts, for ever."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, last_stored, read_page
from inferbus.codec import from_json, to_json
from inferbus.contracts.batch import PartRecord


class PartBook:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def commit(self, tenant: str, part: PartRecord) -> bool:
        """Make this a chunk's result. False: it has one already, and nothing has changed.

        Raises:
            Overloaded: the stream has no room.
        """
        subject = routes.batch_part(tenant, part.job, part.n)
        data = to_json(part)
        try:
            await self._bus.accept(subject, data, {EXPECTED: "0"}, msg_id=secrets.token_hex(12))
        except WrongSequence:
            stored = await last_stored(self._bus, routes.STREAM_BATCH_PARTS, subject, hold_s=HOLD_S)
            return stored is not None and stored.data == data  # ours, and its acknowledgement was lost
        return True

    async def find(self, tenant: str, job: str, n: int) -> PartRecord | None:
        """Give the result of a chunk, if it has one."""
        subject = routes.batch_part(tenant, job, n)
        stored = await last_stored(self._bus, routes.STREAM_BATCH_PARTS, subject, hold_s=HOLD_S)
        return None if stored is None else part_from(stored.data)

    async def since(self, tenant: str, job: str, seq: int) -> AsyncIterator[tuple[int, PartRecord]]:
        """Give a job's parts in the order they were committed, with their sequences, from one on."""
        subject, left = routes.batch_parts_of(tenant, job), 1
        while left:
            page, left = await read_page(self._bus, routes.STREAM_BATCH_PARTS, subject, seq)
            for stored in page:
                yield stored.seq, part_from(stored.data)
                seq = stored.seq + 1
            left = left if page else 0


def part_from(data: bytes) -> PartRecord:
    return from_json(data, PartRecord, what="batch part")
