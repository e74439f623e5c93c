"""ServerClock: the bus's time, as last told and counted on.

Replicas' own clocks may be minutes apart; one server's time ends a key everywhere at once. Between two tellings the
monotonic clock counts, so that setting a machine's clock moves nothing.
"""

from __future__ import annotations

import time
from datetime import datetime


class ServerClock:
    """Give Unix seconds by the bus's clock; by this machine's until the bus has told its time."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead: float | None = None

    def learn(self, timestamp: str) -> None:
        """Take the time an answer was given (RFC 3339); what cannot be read teaches nothing."""
        try:
            told = datetime.fromisoformat(timestamp)
        except ValueError:
            return
        if told.tzinfo is not None:
            self._ahead = told.timestamp() - time.monotonic()

    def now(self) -> float:
        return time.time() if self._ahead is None else self._ahead + time.monotonic()
