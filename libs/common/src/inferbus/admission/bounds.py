"""Bounds: how many requests of a pool, and of one tenant in it, may be open at once. Pure.

The stream's own per-subject bound is the backstop; this is what answers first, with a hint when to come back.
"""

from __future__ import annotations

import time
from collections import Counter, deque

from inferbus.contracts.models import Limits
from inferbus.errors import Overloaded, TenantOverloaded

_WINDOW = 64
_RECENT_S = 120.0
_UNKNOWN_S = 1.0
_MAX_S = 60.0


class Drain:
    """How fast a pool ends its requests, from its last ends.

    Time is counted only while something is open: a pause between two loads says nothing about speed, and one in which
    nothing ends although something is open says all.
    """

    __slots__ = ("_busy_s", "_ends", "_since")

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._since: float | None = None
        self._ends: deque[float] = deque(maxlen=_WINDOW)

    def begin(self, now: float) -> None:
        """The pool has something open, after it had nothing."""
        self._since = now

    def pause(self, now: float) -> None:
        """The pool has nothing open any more."""
        self._busy_s, self._since = self._clock(now), None

    def end(self, now: float) -> None:
        """A request ended by itself."""
        self._ends.append(self._clock(now))

    def seconds_each(self, now: float) -> float | None:
        """Give the seconds between two ends; None where too little is known."""
        clock = self._clock(now)
        while len(self._ends) > 2 and clock - self._ends[0] > _RECENT_S:
            self._ends.popleft()
        if len(self._ends) < 2:
            return None
        intervals = len(self._ends) - 1
        each = (self._ends[-1] - self._ends[0]) / intervals
        return max(each, (clock - self._ends[0]) / (intervals + 1))

    def _clock(self, now: float) -> float:
        return self._busy_s + (now - self._since if self._since is not None else 0.0)


class Bounds:
    """Counts open requests and remembers how fast a pool drains."""

    def __init__(self) -> None:
        self._pool: Counter[str] = Counter()
        self._tenant: Counter[tuple[str, str]] = Counter()
        self._drains: dict[str, Drain] = {}

    def take(self, pool: str, tenant: str, limits: Limits, reported: int = 0) -> None:
        """Count one more open request. `reported` is the queue's length as workers last reported it.

        Raises:
            TenantOverloaded: the tenant's share is full. Overloaded: the pool is full.
        """
        if self._tenant[pool, tenant] >= limits.max_pending_per_tenant:
            raise TenantOverloaded(
                f"{self._tenant[pool, tenant]} requests of this tenant are open, the limit is "
                f"{limits.max_pending_per_tenant}",
                retry_after_s=self.retry_after_s(pool, tenant),
            )
        waiting = max(self._pool[pool], reported)
        if waiting >= limits.max_pending:
            raise Overloaded(
                f"{waiting} requests are open for this model, the limit is {limits.max_pending}",
                retry_after_s=self._hint(self.drain_s(pool, 1 + waiting - limits.max_pending)),
            )
        if not self._pool[pool]:
            self._drains.setdefault(pool, Drain()).begin(time.monotonic())
        self._pool[pool] += 1
        self._tenant[pool, tenant] += 1

    def give(self, pool: str, tenant: str, *, drained: bool = True) -> None:
        """Count one request that is over. `drained`: it came to its end; a cancelled one frees a place and says nothing
        about how fast others end."""
        now = time.monotonic()
        self._pool[pool] -= 1
        self._tenant[pool, tenant] -= 1
        if self._tenant[pool, tenant] <= 0:
            del self._tenant[pool, tenant]
        if drained:
            self._drains[pool].end(now)
        if not self._pool[pool]:
            self._drains[pool].pause(now)

    def open(self, pool: str) -> int:
        return self._pool[pool]

    def drain_s(self, pool: str, requests: int) -> float | None:
        """Estimate the seconds until `requests` more of a pool have ended, as fast as this gateway saw the last ones end;
        None where nothing is known yet."""
        drain = self._drains.get(pool)
        each = drain.seconds_each(time.monotonic()) if drain is not None else None
        return None if each is None else requests * each

    def retry_after_s(self, pool: str, tenant: str) -> float:
        """Say when one of a tenant's open requests may have ended: it has its share of the ends of its pool."""
        mine = self._tenant.get((pool, tenant), 0)
        return self._hint(self.drain_s(pool, -(-self._pool[pool] // mine) if mine else 1))

    @staticmethod
    def _hint(drain_s: float | None) -> float:
        return _UNKNOWN_S if drain_s is None else min(_MAX_S, max(_UNKNOWN_S, drain_s))
