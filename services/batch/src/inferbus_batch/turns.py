"""Turns: chunks of a process beside each other, or one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`turn` is waited for: alone until nothing else runs; beside others while nobody is alone, or waits to be."""

    def __init__(self) -> None:
        self._running = 0
        self._wanted_alone = 0
        self._is_alone = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._changed:
            if alone:
                self._wanted_alone += 1
                try:
                    await self._changed.wait_for(lambda: self._running == 0)
                finally:
                    self._wanted_alone -= 1
                    self._changed.notify_all()
                self._is_alone = True
            else:
                await self._changed.wait_for(lambda: not self._wanted_alone and not self._is_alone)
            self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._is_alone = False
                self._changed.notify_all()
