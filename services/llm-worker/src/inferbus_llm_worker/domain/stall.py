"""When is an engine hung? It has work and has not taken a step for too long."""

from __future__ import annotations


class StallClock:
    """Adds up the time an engine had unfinished requests and took no step; any step sets it back.

    Idle time counts neither way: an engine that hangs is found out also when its clients give up one after the other.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._steps = -1
        self.stalled_s = 0.0

    def observe(self, elapsed_s: float, *, unfinished: int, steps: int) -> bool:
        """Look at the engine after `elapsed_s` more seconds; says whether it is hung."""
        if steps != self._steps:
            self._steps = steps
            self.stalled_s = 0.0
        elif unfinished:
            self.stalled_s += elapsed_s
        return self.stalled_s >= self._limit_s
