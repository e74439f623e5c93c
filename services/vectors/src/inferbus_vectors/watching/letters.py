"""Letters: dead letters of a tenant's collections, as they lie in the stream of all dead letters; read, and redriven.

Only messages that were found under the tenant's own subject are ever taken out of that stream.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import Stored, read_page
from inferbus.codec import to_json
from inferbus.contracts import dead_letter
from inferbus.contracts.vectors import KEY_ID, Document, IndexMessage
from inferbus.contracts.watchlists import Redriven, VectorLetter

_AS_THEY_WERE = (KEY_ID, "traceparent")


class Letters:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def page(self, tenant: str, collection: str, *, after: int, limit: int) -> tuple[list[VectorLetter], int]:
        """Give letters after a place, and the place to go on after (0: there is no more)."""
        page, pending = await self._read(tenant, collection, after)
        found = page[:limit]
        more = pending > 0 or len(page) > limit
        return [letter_of(one) for one in found], found[-1].seq if found and more else 0

    async def redrive(
        self, tenant: str, collection: str, places: Sequence[int], documents: Sequence[Document]
    ) -> Redriven:
        """Put letters back into the queue, `documents` in the place of those of the same id, and take them off the pile."""
        wanted, instead = set(places), {one.id: one for one in documents}
        done, left, after = 0, list[int](), 0
        while True:
            page, pending = await self._read(tenant, collection, after)
            for one in page:
                if wanted and one.seq not in wanted:
                    continue
                if await self._again(tenant, collection, one, instead):
                    done += 1
                else:
                    left.append(one.seq)
            if not page or not pending:
                return Redriven(letters=done, left=left)
            after = page[-1].seq

    async def _again(self, tenant: str, collection: str, letter: Stored, instead: dict[str, Document]) -> bool:
        message = message_of(letter)
        if message is None:
            return False
        edited = [instead.get(one.id, one) for one in message.documents]
        headers = {name: letter.headers[name] for name in _AS_THEY_WERE if name in letter.headers}
        data = to_json(msgspec.structs.replace(message, documents=edited))
        subject = routes.vectors_index(tenant, routes.token_safe(collection))
        await self._bus.accept(subject, data, headers, msg_id=f"redrive:{letter.seq}:{secrets.token_hex(4)}")
        await self._bus.remove(routes.STREAM_DLQ, letter.seq)
        return True

    async def _read(self, tenant: str, collection: str, after: int) -> tuple[list[Stored], int]:
        subject = routes.dlq(routes.vectors_index(tenant, routes.token_safe(collection)))
        return await read_page(self._bus, routes.STREAM_DLQ, subject, after + 1)


def message_of(letter: Stored) -> IndexMessage | None:
    """Give what is to be indexed again; None where it was not kept, or is no message."""
    if dead_letter.TRUNCATED in letter.headers:
        return None
    try:
        return msgspec.json.decode(letter.data, type=IndexMessage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def letter_of(letter: Stored) -> VectorLetter:
    message = message_of(letter)
    return VectorLetter(
        place=letter.seq, documents=[one.id for one in message.documents] if message is not None else [],
        code=letter.headers.get(dead_letter.CODE, ""), reason=letter.headers.get(dead_letter.REASON, ""),
        message=msgspec.Raw(letter.data) if message is not None else msgspec.Raw(b"{}"),
    )  # fmt: skip
