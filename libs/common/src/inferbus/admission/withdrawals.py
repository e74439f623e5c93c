"""Withdrawals: what is given up before any worker reported a start leaves the queue at once, and its end is told.

Left there it would count against its tenant's and its pool's bounds until a worker came to drop it. What a worker has
begun is told by that worker, which knows what was spent.
"""

from __future__ import annotations

from inferbus.answers.exchange import Exchange, Stored
from inferbus.bus import Bus
from inferbus.contracts.facts import CANCELLED, DEADLINE, QUEUED, RequestCancelled
from inferbus.errands import Errands
from inferbus.errors import Cancelled, DeadlineWhileQueued, DeadlineWhileRunning, SlowClient
from inferbus.facts import Facts

_BY_CLIENT = (Cancelled, SlowClient)
_BY_TIME = (DeadlineWhileQueued, DeadlineWhileRunning)


class Withdrawals:
    """Acts for the requests of one asker."""

    def __init__(self, bus: Bus, facts: Facts, errands: Errands, *, asker: str) -> None:
        self._bus = bus
        self._facts = facts
        self._errands = errands
        self._asker = asker

    def look_at(self, exchange: Exchange) -> None:
        """Deal with an exchange that is closed: withdraw its message if it still waits in the queue."""
        if exchange.stored is None or exchange.finished or exchange.fence is not None:
            return
        if not isinstance(exchange.error, _BY_CLIENT + _BY_TIME):
            return
        self._remove(exchange.stored)
        begun = exchange.given_up
        event = RequestCancelled(
            request_id=exchange.request_id,
            tenant=exchange.tenant,
            pool=exchange.pool,
            reason=CANCELLED if isinstance(exchange.error, _BY_CLIENT) else DEADLINE,
            phase=QUEUED,
            attempt=begun.attempt if begun is not None else 0,
            streamed=exchange.streamed,
            prompt_tokens=0 if begun is None else None,
            completion_tokens=exchange.delivered_tokens if begun is None or exchange.streamed else None,
        )
        self._facts.cancelled(event, asker=self._asker, tag=exchange.tag)

    def _remove(self, stored: Stored) -> None:
        async def remove() -> None:
            await self._bus.remove(stored.stream, stored.sequence)

        self._errands.add("withdraw", remove)
