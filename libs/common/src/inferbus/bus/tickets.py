"""Tickets: bodies over the inline limit travel as a chunk stream, and the work message carries a ticket.

Chunks with a per-message TTL: 63 ms for 20 MB where nats-py's object store takes 947 (recipes/nats.md section 9).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets

import msgspec
from nats.aio.msg import Msg

from inferbus import routes
from inferbus.bus import Bus
from inferbus.errors import DependencyDown, InvalidRequest, Permanent

INLINE_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024
"""nats-server keeps a buffer of a chunk's size for each that it ever sent at once: 21 of 1 MB after 40,000 requests."""
_NO_RESPONDERS = "503"


class TicketLost(Permanent):
    """The payload is gone (its TTL passed) or is not what was sent."""

    code = "invalid_request"


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """Where a body is: written into the `Ib-Ticket` header as `id;first_seq;chunks;size;sha256`."""

    id: str
    first_seq: int
    chunks: int
    size: int
    sha256: str

    def to_header(self) -> str:
        return f"{self.id};{self.first_seq};{self.chunks};{self.size};{self.sha256}"


def ticket_from(header: str) -> Ticket:
    """Read an `Ib-Ticket` header.

    Raises:
        InvalidRequest: it is malformed.
    """
    try:
        id_, first_seq, chunks, size, sha256 = header.split(";")
        return Ticket(id=id_, first_seq=int(first_seq), chunks=int(chunks), size=int(size), sha256=sha256)
    except ValueError as exc:
        raise InvalidRequest(f"unreadable ticket {header[:100]!r}") from exc


async def store_payload(bus: Bus, tenant: str, body: bytes, *, ttl_s: int) -> Ticket:
    """Store a body as chunks. `bus` should be a connection of its own: large bodies delay what is behind them.

    Raises:
        DependencyDown, Overloaded: the bus is away or its payload stream is full.
    """
    id_ = secrets.token_hex(12)
    pieces = [body[start : start + _CHUNK_BYTES] for start in range(0, len(body), _CHUNK_BYTES)]
    first_seq = 0
    for n, piece in enumerate(pieces):
        seq = await bus.accept(routes.pay(tenant, id_, n), piece, {}, msg_id=f"{tenant}:{id_}:{n}", ttl_s=ttl_s)
        first_seq = first_seq or seq
    return Ticket(
        id=id_, first_seq=first_seq, chunks=len(pieces), size=len(body), sha256=hashlib.sha256(body).hexdigest()
    )


async def load_payload(bus: Bus, tenant: str, ticket: Ticket, *, timeout_s: float = 10.0) -> bytes:
    """Fetch a body by its ticket with one batched direct get.

    Raises:
        TicketLost: chunks are missing or the hash differs.
        DependencyDown: no answer in time.
    """
    pieces: dict[int, bytes] = {}
    status: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_message(message: Msg) -> None:
        headers = message.headers or {}
        if subject := headers.get("Nats-Subject"):
            pieces[int(subject.rsplit(".", 1)[1])] = message.data
        if ("Status" in headers or len(pieces) == ticket.chunks) and not status.done():
            status.set_result(headers.get("Status", ""))

    inbox = bus.nc.new_inbox()
    subscription = await bus.subscribe(inbox, on_message)
    query = {
        "seq": ticket.first_seq,
        "next_by_subj": routes.pay_filter(tenant, ticket.id),
        "batch": ticket.chunks,
    }
    try:
        await bus.publish(f"$JS.API.DIRECT.GET.{routes.STREAM_PAY}", msgspec.json.encode(query), reply=inbox)
        async with asyncio.timeout(timeout_s):
            ended = await status
    except TimeoutError:
        raise DependencyDown("the payload did not arrive in time") from None
    finally:
        await bus.unsubscribe(subscription)
    if ended == _NO_RESPONDERS:
        raise DependencyDown("the payload stream does not answer")
    body = b"".join(pieces[n] for n in sorted(pieces))
    if len(pieces) != ticket.chunks or hashlib.sha256(body).hexdigest() != ticket.sha256:
        raise TicketLost(f"payload {ticket.id} is gone or damaged: {len(pieces)} of {ticket.chunks} chunks")
    return body
