"""Errands: small jobs nobody waits for, a few at a time, a bounded number of them waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from inferbus.errors import InferbusError

Job = Callable[[], Awaitable[None]]
log = structlog.get_logger()


class Errands:
    """Runs jobs in the order they came, `at_once` at a time. Without jobs it has no task and costs nothing."""

    def __init__(self, *, at_once: int = 16, waiting: int = 16_384) -> None:
        self._at_once = at_once
        self._most = waiting
        self._waiting: deque[tuple[str, Job]] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self.dropped = 0

    def add(self, name: str, job: Job) -> None:
        """Have `job` done soon. What it raises is logged under `name`; where too many wait, it is dropped and logged."""
        if len(self._waiting) >= self._most:
            self.dropped += 1
            log.error("errand_dropped", errand=name, waiting=len(self._waiting))
            return
        self._waiting.append((name, job))
        if len(self._runners) < self._at_once:
            runner = asyncio.create_task(self._run(), name="errands")
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)

    async def stop(self, within_s: float = 3.0) -> None:
        """Let what waits be done for up to `within_s` seconds, then drop the rest."""
        if self._runners:
            await asyncio.wait(set(self._runners), timeout=within_s)
        self._waiting.clear()
        for runner in list(self._runners):
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            name, job = self._waiting.popleft()
            try:
                await job()
            except InferbusError as exc:
                log.warning("errand_failed", errand=name, code=exc.code, error=exc.message)
            except Exception:  # the errands behind it must still be run
                log.exception("errand_failed", errand=name)
