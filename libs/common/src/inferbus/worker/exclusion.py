"""Exclusion: ordinary requests run side by side; a suspect, which was there when engines died, runs with nobody beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Exclusion:
    """A lock with two sides. A waiting suspect holds newcomers back, so that it does get its turn."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._shared = 0
        self._suspects = 0
        self._alone = False

    def shared(self) -> _Shared:
        """Run beside others: `async with exclusion.shared():`."""
        return _Shared(self)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run with nobody beside it: wait for those that run, keep newcomers waiting."""
        self._suspects += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._shared == 0 and not self._alone)
                self._alone = True
        finally:
            self._suspects -= 1
            if not self._alone:  # given up while waiting: those held back go on
                await asyncio.shield(self._tell())
        try:
            yield
        finally:
            self._alone = False
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Shared:
    """One turn beside others. A class, not a generator: every request takes one."""

    __slots__ = ("_lock",)

    def __init__(self, lock: Exclusion) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        lock = self._lock
        if lock._suspects or lock._alone:
            async with lock._changed:
                await lock._changed.wait_for(lambda: not lock._suspects and not lock._alone)
        lock._shared += 1

    async def __aexit__(self, *_: object) -> None:
        lock = self._lock
        lock._shared -= 1
        if lock._suspects and lock._shared == 0:
            await lock._tell()
