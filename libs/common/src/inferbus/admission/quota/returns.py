"""Returns: what goes back from a share to its counter, and what is owed to it, in one write at a time.

What is parted with waits as long as a record of this process speaks of it: others would give it back too, were it dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import structlog

from inferbus.admission.quota.counters import Counters
from inferbus.errors import InferbusError

Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
log = structlog.get_logger()


class Returns:
    """Those of one lease. `releasable(parting, debt)` says how much of what is parted with may be subtracted now; `debt` is
    what was spent beyond the share and is not counted yet, `parting` what is no longer the share's."""

    __slots__ = ("_back", "_counters", "_releasable", "_sending", "_spawn", "_subject", "_writing", "debt", "parting")

    def __init__(self, counters: Counters, subject: str, releasable: Callable[[int, int], int], spawn: Spawn) -> None:
        self._counters = counters
        self._subject = subject
        self._releasable = releasable
        self._spawn = spawn
        self.debt = 0
        self.parting = 0
        self._back = self._sending = 0
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_writing(self) -> bool:
        return self._writing is not None

    @property
    def coming(self) -> int:
        """What the counter has been given back, or is in a moment."""
        return self._sending + self._back + self._ready

    def take_back(self, amount: int) -> None:
        """A grant went over the limit by so much: no record has spoken of it."""
        self._back += amount

    def write_soon(self) -> None:
        """Tell the counter, if there is anything to tell."""
        if self._writing is None and (self._back or self.debt or self._ready):
            self._writing = self._spawn(self._write())

    async def written(self, within_s: float | None = None) -> None:
        """Wait until nothing is on its way to the counter."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=within_s)

    @property
    def _ready(self) -> int:
        return self._releasable(self.parting, self.debt) if self.parting else 0

    async def _write(self) -> None:
        """Subtract what is returned, add what is owed."""
        try:
            while self._back or self.debt or self._ready:
                part = self._ready
                self.parting -= part
                back, self._back = self._back + part, 0
                debt, self.debt = self.debt, 0
                self._sending = back
                try:
                    if debt != back:
                        await self._counters.add(self._subject, debt - back)
                except InferbusError as exc:
                    # Nobody knows whether a subtraction was counted: it stays used until the window ends. A debt is
                    # counted later.
                    self.debt += max(0, debt - back)
                    log.info("quota_not_settled", subject=self._subject, delta=debt - back, error=exc.message)
                    return
        finally:
            self._sending = 0
            self._writing = None
