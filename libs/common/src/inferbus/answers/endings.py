"""Endings: how the last requests of a process ended, for whoever asks about one of them afterwards. Bounded."""

from __future__ import annotations

from collections import OrderedDict

from inferbus.answers.exchange import Exchange
from inferbus.errors import Cancelled, SlowClient

QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED = "queued", "running", "completed", "failed", "cancelled"
_MOST = 8192


class Endings:
    """Remembers the last 8,192, by tenant and request id."""

    def __init__(self) -> None:
        # A plain dict looks through all it forgot to find its first.
        self._how: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._by: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def note(self, exchange: Exchange) -> None:
        self._how[exchange.tenant, exchange.request_id] = state_of(exchange)
        if len(self._how) > _MOST:
            self._how.popitem(last=False)
        if exchange.finished and (fence := exchange.fence) is not None:
            self._by[exchange.tag] = (fence.attempt, fence.run)
            if len(self._by) > _MOST:
                self._by.popitem(last=False)

    def find(self, tenant: str, request_id: str) -> str | None:
        """Give `completed`, `failed` or `cancelled`; None where the request is not among them."""
        return self._how.get((tenant, request_id))

    def was_by_another(self, tag: int, attempt: int, run: int) -> bool:
        """Whether the end of a request came, and from another run than this one."""
        return self._by.get(tag, (attempt, run)) != (attempt, run)


def state_of(exchange: Exchange) -> str:
    """Say how a request is doing."""
    if not exchange.ended:
        return RUNNING if exchange.started else QUEUED
    if exchange.error is None:
        return COMPLETED
    return CANCELLED if isinstance(exchange.error, Cancelled | SlowClient) else FAILED
