"""Answers too large for one frame: stored as chunks by the worker, fetched by the gateway, told of in `finished`.

On the gateway they come over the connection for payloads, so that 20 MB of tensors delay nobody's tokens.
"""

from __future__ import annotations

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.tickets import load_payload, store_payload, ticket_from
from inferbus.errors import DependencyDown, Permanent

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is not streamed."""
_TTL_S = 120


async def store_answer(bus: Bus, work_subject: str, data: bytes) -> str:
    """Store an answer; gives the ticket for its `finished`.

    Raises:
        DependencyDown, Overloaded: the bus is away, or its payload stream is full.
    """
    tenant = routes.parse_infer(work_subject).tenant
    return (await store_payload(bus, tenant, data, ttl_s=_TTL_S)).to_header()


async def load_answer(bus: Bus, tenant: str, ticket: str) -> bytes:
    """Fetch an answer.

    Raises:
        DependencyDown: it cannot be had (any more); asked again, the request may be answered.
    """
    try:
        return await load_payload(bus, tenant, ticket_from(ticket))
    except Permanent as exc:
        raise DependencyDown(f"the answer was lost on its way: {exc.message}") from exc
