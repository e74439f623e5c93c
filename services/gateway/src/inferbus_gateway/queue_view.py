"""QueueView: how many requests are ahead of one that waits, and for how long it may have to. Estimates, and named so.

The queue is JetStream's and tells nobody a place. Known are this gateway's own waiting requests, exactly and in order; how
many messages wait in all, as workers last saw it (up to 3 s ago); and how fast this gateway's requests end. Of what others
have queued, the same part is taken to be ahead as of our own. Counted at most twice a second, for all streams together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from inferbus.admission.bounds import Bounds
from inferbus.answers.exchange import Exchange
from inferbus.process.presence import PresenceTable
from inferbus.routes import BATCH, INTERACTIVE
from inferbus_gateway.ports import Place

_FRESH_S = 0.5
_LATE_S = 2.0


class _Queue:
    """The waiting requests of one pool and lane: own ones by tag, oldest first, and how many others."""

    def __init__(self, tags: list[int], others: int) -> None:
        self.rank = {tag: rank for rank, tag in enumerate(tags)}
        self.others = others

    def ahead(self, tag: int) -> tuple[int, int]:
        """Give own and all requests ahead of one; one that just came is behind all of them."""
        own = self.rank.get(tag, len(self.rank))
        return own, own + round(self.others * min(1.0, (own + 1) / max(1, len(self.rank))))


class QueueView:
    """`open_exchanges` gives all open requests of this gateway, oldest first."""

    def __init__(
        self, open_exchanges: Callable[[], Iterable[Exchange]], presence: PresenceTable, bounds: Bounds
    ) -> None:
        self._open_exchanges = open_exchanges
        self._presence = presence
        self._bounds = bounds
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._before: dict[tuple[str, str], int] = {}
        self._counted = -_FRESH_S

    def place_of(self, exchange: Exchange) -> Place:
        """Estimate where a waiting request stands now."""
        now = time.monotonic()
        if now - self._counted >= _FRESH_S:
            just_before = now - self._counted < _LATE_S
            self._before = {key: len(queue.rank) for key, queue in self._queues.items()} if just_before else {}
            self._counted = now
            self._queues = self._count(self._open_exchanges())
        own, ahead = self._of(exchange.pool, exchange.lane).ahead(exchange.tag)
        if exchange.lane == BATCH:  # interactive requests go first
            first = self._of(exchange.pool, INTERACTIVE)
            own, ahead = own + len(first.rank), ahead + len(first.rank) + first.others
        wait_s = self._bounds.drain_s(exchange.pool, own + 1)
        return Place(ahead + 1, None if wait_s is None else round(wait_s, 1))

    def _of(self, pool: str, lane: str) -> _Queue:
        return self._queues.get((pool, lane)) or _Queue([], 0)

    def _count(self, exchanges: Iterable[Exchange]) -> dict[tuple[str, str], _Queue]:
        waiting: dict[tuple[str, str], list[int]] = {}
        for exchange in exchanges:
            if exchange.fence is None and not exchange.ended:
                waiting.setdefault((exchange.pool, exchange.lane), []).append(exchange.tag)
        queues = {}
        for (pool, lane), tags in waiting.items():
            # A report may still count those of ours that have just begun: they are no others.
            ours = max(len(tags), self._before.get((pool, lane), 0))
            queues[pool, lane] = _Queue(tags, max(0, self._presence.queued(pool, lane) - ours))
        return queues
