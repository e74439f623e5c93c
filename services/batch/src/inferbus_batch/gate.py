"""Gate: what the rows of one chunk in the making are told: go on, begin nothing more, or stop now."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol

LEASE_LOST = "lease_lost"


class Running(Protocol):
    """What a row waits for."""

    def cancel(self) -> object: ...


class Gate:
    """`ending` is not empty once the job is being ended early: what runs is cancelled. `held`: nothing is begun any more,
    and the chunk goes back when what runs has ended; `again_s` is when it may be tried again."""

    def __init__(self) -> None:
        self.ending = ""
        self.held = ""
        self.again_s = 0.0
        self._ours_until = float("inf")
        self._shut = asyncio.Event()
        self._open: set[Running] = set()

    @property
    def is_shut(self) -> bool:
        return self._shut.is_set()

    @property
    def is_ours(self) -> bool:
        """Whether nobody else can have the chunk yet."""
        return time.monotonic() < self._ours_until

    def leased(self, seconds: float) -> None:
        """The chunk is this process's for so long."""
        self._ours_until = time.monotonic() + seconds

    def end(self, ending: str) -> None:
        """The job ends early: cancel what runs."""
        if self.ending:
            return
        self.ending = ending
        self._shut.set()
        for running in list(self._open):
            running.cancel()

    def hold(self, why: str, again_s: float = 0.0) -> None:
        """Begin nothing more."""
        if not self.is_shut:
            self.held, self.again_s = why, again_s
            self._shut.set()

    def enter(self, running: Running) -> None:
        """A row waits for this."""
        self._open.add(running)
        if self.ending:
            running.cancel()

    def leave(self, running: Running) -> None:
        self._open.discard(running)

    async def sleep(self, seconds: float) -> bool:
        """Wait; False as soon as nothing may be begun any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shut.wait()
        return not self.is_shut
