"""Dead rows: pushed rows that were refused, as dead letters of the house; listed, and pushed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import read_one, read_page
from inferbus.codec import to_json
from inferbus.contracts import dead_letter
from inferbus.contracts.features import KEY, PushMessage, RowFault
from inferbus.errors import DependencyDown, NotFound
from inferbus.feature_writes import paid_by
from inferbus.queue.delivery import Delivery

_FAULTS_SHOWN = 20


class DeadPush(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter. `faults` are of its first rows; `rows` has them as they were pushed, none where they cannot be read."""

    sequence: int
    source: str
    code: str
    reason: str
    faults: list[RowFault] = []
    rows: list[dict[str, Any]] = []


async def bury_rows(bus: Bus, delivery: Delivery, message: PushMessage, faults: Sequence[RowFault]) -> None:
    """Store refused rows of a message as a dead letter; the message itself is not ended.

    Raises:
        DependencyDown, Overloaded: it could not be stored.
    """
    key = delivery.headers.get(KEY, "")
    rows = [message.rows[one.row] for one in faults if one.row < len(message.rows)]
    shown = [RowFault(row=n, fault=one.fault) for n, one in enumerate(faults[:_FAULTS_SHOWN])]
    first = faults[0].fault
    headers = paid_by(key) | {
        dead_letter.REASON: " ".join(f"{len(faults)} rows refused; the first: {first.message}".split())[:1000],
        dead_letter.CODE: first.code,
        dead_letter.DELIVERIES: str(delivery.attempt),
        dead_letter.SOURCE_SUBJECT: delivery.subject,
        dead_letter.SOURCE_SEQUENCE: str(delivery.seq),
        dead_letter.FAULTS: to_json(shown).decode(),
    }
    await bus.accept(
        routes.dlq(delivery.subject), to_json(PushMessage(rows=rows)), headers,
        msg_id=f"dlq:{delivery.stream}:{delivery.seq}",
    )  # fmt: skip


class DeadRows:
    """A tenant's dead letters of pushes. Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def of(self, tenant: str, source: str = "", *, after: int = 0, limit: int = 100) -> list[DeadPush]:
        """Give dead letters in the order they came, those after a sequence."""
        subject = routes.dlq(routes.features_push(tenant, source) if source else routes.features_pushes(tenant))
        found: list[DeadPush] = []
        seq, left = after + 1, 1
        while left and len(found) < limit:
            page, left = await read_page(self._bus, routes.STREAM_DLQ, subject, seq)
            for one in page:
                found.append(_dead_push(one.seq, one.headers, one.data))
                seq = one.seq + 1
            left = left if page else 0
        return found[:limit]

    async def again(self, tenant: str, sequence: int) -> int:
        """Push a dead letter's rows again, and take it out of the dead letters. Gives their sequence.

        Raises:
            NotFound: the tenant has none of this sequence.
        """
        try:
            stored = await read_one(self._bus, routes.STREAM_DLQ, sequence)
        except DependencyDown:
            raise NotFound(f"there is no dead letter {sequence}", param="sequence") from None
        subject = stored.headers.get(dead_letter.SOURCE_SUBJECT, "")
        if subject != routes.features_push(tenant, _source_of(subject)):
            raise NotFound(f"there is no dead letter {sequence}", param="sequence")
        pushed = await self._bus.accept(
            subject, stored.data, paid_by(stored.headers.get(KEY, "")), msg_id=f"again:{sequence}"
        )
        await self._bus.remove(routes.STREAM_DLQ, sequence)
        return pushed


def _dead_push(sequence: int, headers: dict[str, str], data: bytes) -> DeadPush:
    try:
        rows = msgspec.json.decode(data, type=PushMessage).rows
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = []
    faults = headers.get(dead_letter.FAULTS)
    return DeadPush(
        sequence=sequence, source=_source_of(headers.get(dead_letter.SOURCE_SUBJECT, "")),
        code=headers.get(dead_letter.CODE, ""), reason=headers.get(dead_letter.REASON, ""),
        faults=msgspec.json.decode(faults, type=list[RowFault]) if faults else [], rows=rows,
    )  # fmt: skip


def _source_of(subject: str) -> str:
    return subject.rsplit(".", 1)[-1]
