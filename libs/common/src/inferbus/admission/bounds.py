"""Bounds: how many requests of a pool, and of one tenant in it, may be open at once. Pure.

The stream's own per-subject bound is the backstop; this is what answers first, with a hint when to come back.
"""

from __future__ import annotations

import time
from collections import Counter, deque

from inferbus.contracts.models import Limits
from inferbus.errors import Overloaded, TenantOverloaded

_WINDOW = 64


class Bounds:
    """Counts open requests and remembers how fast a pool drains."""

    def __init__(self) -> None:
        self._pool: Counter[str] = Counter()
        self._tenant: Counter[tuple[str, str]] = Counter()
        self._ends: dict[str, deque[float]] = {}

    def take(self, pool: str, tenant: str, limits: Limits, reported: int = 0) -> None:
        """Count one more open request. `reported` is the queue's length as workers last reported it.

        Raises:
            TenantOverloaded: the tenant's share is full. Overloaded: the pool is full.
        """
        if self._tenant[pool, tenant] >= limits.max_pending_per_tenant:
            raise TenantOverloaded(
                f"{self._tenant[pool, tenant]} requests of this tenant are open, the limit is "
                f"{limits.max_pending_per_tenant}",
                retry_after_s=self._drain_s(pool, 1),
            )
        waiting = max(self._pool[pool], reported)
        if waiting >= limits.max_pending:
            raise Overloaded(
                f"{waiting} requests are open for this model, the limit is {limits.max_pending}",
                retry_after_s=self._drain_s(pool, 1 + waiting - limits.max_pending),
            )
        self._pool[pool] += 1
        self._tenant[pool, tenant] += 1

    def give(self, pool: str, tenant: str) -> None:
        """Count one request that ended."""
        self._pool[pool] -= 1
        self._tenant[pool, tenant] -= 1
        if self._tenant[pool, tenant] <= 0:
            del self._tenant[pool, tenant]
        self._ends.setdefault(pool, deque(maxlen=_WINDOW)).append(time.monotonic())

    def open(self, pool: str) -> int:
        return self._pool[pool]

    def _drain_s(self, pool: str, requests: int) -> float:
        """Estimate the seconds until `requests` more have ended, from the last ends (1 s where nothing is known)."""
        ends = self._ends.get(pool)
        if ends is None or len(ends) < 2:
            return 1.0
        per_request = (ends[-1] - ends[0]) / (len(ends) - 1)
        return min(60.0, max(1.0, requests * per_request))
