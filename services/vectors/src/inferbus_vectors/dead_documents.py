"""Dead documents: those of a message that cannot be indexed become dead letters of their own, and a fact tells of them.

A letter is an index message again, with the documents of one message that have the same fault; put back into the queue as
it is, or mended, it is tried once more. Their versions go with them, so that what came later stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts import dead_letter
from inferbus.contracts.vectors import KEY_ID, TRACEPARENT, Document, DocumentFault, DocumentsFailed
from inferbus.errors import InferbusError, Permanent
from inferbus.queue.delivery import Delivery

_TOLD = 100
_AT_ONCE = 16
_HOLD_S = 10.0
_KEPT_HEADERS = (KEY_ID, TRACEPARENT)


class Dead(msgspec.Struct, frozen=True):
    """A document that was given up: its place in the message, its JSON, and why."""

    n: int
    id: str
    raw: bytes
    error: InferbusError

    @property
    def fault(self) -> DocumentFault:
        error = self.error
        return DocumentFault(n=self.n, id=self.id, code=error.code, message=error.message, param=error.param or "")


def raw_of(document: Document, version: int) -> bytes:
    return to_json(msgspec.structs.replace(document, version=version))


class DeadDocuments:
    """Stores letters and tells of them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def bury(self, delivery: Delivery, subject: routes.VectorsSubject, dead: Sequence[Dead]) -> None:
        """Store what is dead of a message. Doing it again stores nothing twice for as long as the bus remembers.

        Raises:
            DependencyDown: the bus is away; the message must not be acknowledged.
        """
        if not dead:
            return
        groups: dict[tuple[str, str], list[Dead]] = {}
        for one in dead:
            groups.setdefault((one.error.code, one.error.message), []).append(one)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def store(group: list[Dead]) -> None:
            async with turns:
                await self._store(delivery, group)

        await asyncio.gather(*(store(group) for group in groups.values()))
        fact = DocumentsFailed(
            tenant=subject.tenant, collection=subject.name, sequence=delivery.seq, count=len(dead),
            faults=[one.fault for one in dead[:_TOLD]],
        )  # fmt: skip
        name = f"{routes.FACT_DOCUMENTS_FAILED}:{int(delivery.stored_s)}:{delivery.seq}"
        await self._bus.accept(
            routes.event("vectors", routes.FACT_DOCUMENTS_FAILED), to_json(fact), {}, msg_id=name, hold_s=_HOLD_S
        )

    async def _store(self, delivery: Delivery, group: list[Dead]) -> None:
        first = group[0]
        kept = {name: delivery.headers[name] for name in _KEPT_HEADERS if name in delivery.headers}
        headers = kept | {
            dead_letter.REASON: _one_line(first.error),
            dead_letter.CODE: first.error.code,
            dead_letter.DELIVERIES: str(delivery.attempt),
            dead_letter.SOURCE_SUBJECT: delivery.subject,
            dead_letter.SOURCE_SEQUENCE: str(delivery.seq),
        }
        name = f"dlq:{int(delivery.stored_s)}:{delivery.seq}:{first.n}"
        body = b'{"type":"vectors.index.v1","documents":[%s]}' % b",".join(one.raw for one in group)
        try:
            await self._bus.accept(routes.dlq(delivery.subject), body, headers, msg_id=name, hold_s=_HOLD_S)
        except Permanent:  # with our headers it is over the bus's limit
            headers[dead_letter.TRUNCATED] = str(len(body))
            await self._bus.accept(routes.dlq(delivery.subject), b"", headers, msg_id=name, hold_s=_HOLD_S)


def _one_line(error: InferbusError) -> str:
    where = f"{error.param}: " if error.param and not error.message.startswith(error.param) else ""
    return " ".join(f"{where}{error.message}".split()).encode("ascii", "replace").decode()[:1000]
