"""Patience: how long one reader waits, begun anew for every piece of a stream at the price of a comparison."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_CLOSE_S = 0.001
"""Timers are kept in milliseconds: one may fire this much before its time."""


class Patience:
    """Calls `over` when the last wait that was begun has lasted its time.

    A timer of its own for every wait costs 3 us to set and to cancel, for each token. Here one timer stands while waits
    follow each other, and looks when it fires whether the wait of then began late enough to go on.
    """

    __slots__ = ("_due", "_loop", "_over", "_timer", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> None:
        self._loop = loop
        self._over = over
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._until = math.inf

    def begin(self, timeout_s: float | None) -> None:
        """Begin a wait; without a timeout it may last for ever."""
        if timeout_s is None:
            self._until = math.inf
            return
        self._until = until = self._loop.time() + timeout_s
        if self._timer is None or self._due > until:
            self._set(until)

    def end(self) -> None:
        """Wait no more."""
        self._until = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        if self._until == math.inf:
            return
        if self._until - self._loop.time() < _CLOSE_S:
            self._until = math.inf
            self._over()
        else:
            self._set(self._until)
