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
        self._how: OrderedDict[tuple[str, str], str] = (
            OrderedDict()
        )  # a dict looks through all it forgot to find its first

    def note(self, exchange: Exchange) -> None:
        self._how[exchange.tenant, exchange.request_id] = state_of(exchange)
        if len(self._how) > _MOST:
            self._how.popitem(last=False)

    def find(self, tenant: str, request_id: str) -> str | None:
        """Give `completed`, `failed` or `cancelled`; None where the request is not among them."""
        return self._how.get((tenant, request_id))


def state_of(exchange: Exchange) -> str:
    """Say how a request is doing."""
    if not exchange.ended:
        return RUNNING if exchange.started else QUEUED
    if exchange.error is None:
        return COMPLETED
    return CANCELLED if isinstance(exchange.error, Cancelled | SlowClient) else FAILED
