"""Fence: which delivery of a chunk is the latest that works on it. What an earlier one still asks is not begun any more.

A lease does not tell: a server that is killed may forget that it was renewed, and give the chunk to another process while the first one
goes on. So whoever takes a chunk up raises its fence before looking at what is there; and a worker looks at the fence before it begins
what a delivery has asked. Either the worker began first, and its message is seen in the queue; or the fence was first, and it
does not begin.
"""

from __future__ import annotations

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, Stored, last_stored
from inferbus.durable.outcomes import KEPT_S


async def raise_fence(bus: Bus, tenant: str, name: str, attempt: int) -> bool:
    """Say that a delivery has a chunk now. False: a later one has it.

    Raises:
        DependencyDown, Overloaded: the bus is away, or has no room.
    """
    subject = routes.results(tenant, name)
    while True:
        stored = await _read(bus, tenant, name)
        if _attempt_in(stored) > attempt:
            return False
        headers = {EXPECTED: str(stored.seq if stored is not None else 0)}
        try:
            await bus.accept(subject, b"%d" % attempt, headers, ttl_s=KEPT_S)
        except WrongSequence:
            continue
        return True


async def is_behind(bus: Bus, tenant: str, name: str, attempt: int) -> bool:
    """Say whether a later delivery than this has the chunk.

    Raises:
        DependencyDown: nobody can tell now.
    """
    return _attempt_in(await _read(bus, tenant, name)) > attempt


async def _read(bus: Bus, tenant: str, name: str) -> Stored | None:
    return await last_stored(bus, routes.STREAM_RESULTS, routes.results(tenant, name), hold_s=HOLD_S)


def _attempt_in(stored: Stored | None) -> int:
    return int(stored.data) if stored is not None and stored.data.isdigit() else 0
