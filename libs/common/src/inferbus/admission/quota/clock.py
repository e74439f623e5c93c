"""ServerClock: the bus server's time, so that replicas whose own clocks are minutes apart share windows.

Measured against the `ts` of a JetStream answer and carried on by the monotonic clock: setting this machine's clock moves
nothing.
"""

from __future__ import annotations

import time
from datetime import datetime

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.errors import DependencyDown

_SAMPLES = 3
MEASURE_EVERY_S = 30.0


class _Info(msgspec.Struct):
    ts: datetime | None = None


class ServerClock:
    """Call it for Unix seconds of server time. Off by at most half of the quickest measured round trip."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._offset: float | None = None
        self.error_s = 0.0

    @property
    def known(self) -> bool:
        return self._offset is not None

    def __call__(self) -> float:
        """Give the server's time.

        Raises:
            DependencyDown: it was never measured.
        """
        if self._offset is None:
            raise DependencyDown("the bus server's time is not known yet")
        return time.monotonic() + self._offset

    async def measure(self) -> None:
        """Measure anew; the quickest of three round trips counts.

        Raises:
            DependencyDown: the bus is away.
        """
        best: tuple[float, float] | None = None
        for _ in range(_SAMPLES):
            began = time.monotonic()
            answer = await self._bus.request(f"$JS.API.STREAM.INFO.{routes.STREAM_QUOTA}")
            ended = time.monotonic()
            stamp = msgspec.json.decode(answer.data, type=_Info).ts
            if stamp is None:
                raise DependencyDown("the counters' stream does not exist")
            if best is None or ended - began < best[0]:
                best = (ended - began, stamp.timestamp() - (began + ended) / 2)
        if best is not None:
            self.error_s, self._offset = best[0] / 2, best[1]
