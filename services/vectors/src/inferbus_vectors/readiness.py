"""Readiness: whether this process serves, and if not, why not yet."""

from __future__ import annotations

from inferbus.bus import Bus
from inferbus.contracts.presence import DRAINING, READY, STARTING
from inferbus_vectors.engines import Engine


class Readiness:
    """Set `opened` once the rooms are open."""

    def __init__(self, bus: Bus, engine: Engine) -> None:
        self._bus = bus
        self._engine = engine
        self.opened = False

    def why_not(self) -> str | None:
        if not self._bus.connected:
            return "the bus is not reachable"
        return self._engine.why_not_ready() or (
            None if self.opened else "keys, models or collections are not loaded yet"
        )

    def state(self, *, stopping: bool) -> str:
        """Give the state for the presence table."""
        return DRAINING if stopping else STARTING if self.why_not() else READY
