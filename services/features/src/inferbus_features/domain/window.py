"""How long a batch waits for more. Pure."""

from __future__ import annotations

_WEIGHT = 0.2


class Window:
    """Follows how quickly requests come. A batch only waits where the time it waits for brings others: alone, a request is
    read at once; and where enough wait already, too."""

    def __init__(self, longest_s: float, enough: int) -> None:
        self._longest_s = longest_s
        self._enough = enough
        self._gap_s = 1.0
        self._last = 0.0

    def came(self, now: float) -> None:
        """A request came at `now` (monotonic seconds)."""
        gap = min(1.0, now - self._last)
        self._gap_s += _WEIGHT * (gap - self._gap_s)
        self._last = now

    def wait_s(self, waiting: int) -> float:
        """Say how long to wait while `waiting` do."""
        if waiting >= self._enough or self._gap_s * 4 > self._longest_s:
            return 0.0
        return min(self._longest_s, self._gap_s * (self._enough - waiting))
