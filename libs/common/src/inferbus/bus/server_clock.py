"""ServerClock: the bus server's time, as last told and counted on.

Replicas' own clocks may be minutes apart; one server's time ends a key, a window and a deadline everywhere at once. Between
two tellings the monotonic clock counts, so that setting a machine's clock moves nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from inferbus.bus import Bus
from inferbus.errors import DependencyDown


class _Info(msgspec.Struct):
    ts: datetime | None = None


async def server_time(bus: Bus, stream: str) -> datetime:
    """Ask the server what time it is, by what it says of a stream.

    Raises:
        DependencyDown: the bus is away, or there is no such stream.
    """
    answer = await bus.request(f"$JS.API.STREAM.INFO.{stream}")
    stamp = msgspec.json.decode(answer.data, type=_Info).ts
    if stamp is None:
        raise DependencyDown(f"the stream {stream} does not exist")
    return stamp


class ServerClock:
    """Call it for Unix seconds of server time, or ask `now` where a guess is better than nothing."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead: float | None = None

    @property
    def known(self) -> bool:
        return self._ahead is not None

    def __call__(self) -> float:
        """Give the server's time.

        Raises:
            DependencyDown: it was never told.
        """
        if self._ahead is None:
            raise DependencyDown("the bus server's time is not known yet")
        return self._ahead + time.monotonic()

    def now(self) -> float:
        """Give the server's time; this machine's until it has been told."""
        return time.time() if self._ahead is None else self._ahead + time.monotonic()

    def learn(self, told: datetime | str, *, asked: float | None = None) -> None:
        """Take the time an answer was given (RFC 3339); what cannot be read teaches nothing. `asked`: when, by the monotonic
        clock; the answer is then taken to be half of the round trip old."""
        try:
            stamp = datetime.fromisoformat(told) if isinstance(told, str) else told
        except ValueError:
            return
        if stamp.tzinfo is not None:
            answered = time.monotonic()
            self._ahead = stamp.timestamp() - (answered if asked is None else (asked + answered) / 2)

    async def measure(self, ask: Callable[[], Awaitable[datetime]], *, samples: int = 3) -> None:
        """Ask several times and take the quickest answer: it is off by at most half of its round trip.

        Raises:
            Whatever `ask` raises; what was known stays.
        """
        best, ahead = math.inf, self._ahead
        for _ in range(samples):
            asked = time.monotonic()
            told = await ask()
            took = time.monotonic() - asked
            if took < best:
                best, ahead = took, told.timestamp() - (asked + took / 2)
        self._ahead = ahead
