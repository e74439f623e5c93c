"""Retention: files that have expired are removed now and then. Any number of processes may do it: doing it twice is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random

import structlog

from inferbus.bus import Bus
from inferbus.errors import InferbusError
from inferbus.files.book import FileBook
from inferbus.files.purging import purge

_FIRST_S = 60.0
log = structlog.get_logger()


class Retention:
    """`start`, then `stop`. The first pass comes within a minute, so that one that is always restarted does it too."""

    def __init__(self, bus: Bus, files: FileBook, *, every_s: float) -> None:
        self._bus = bus
        self._files = files
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_purging(), name="retention")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_purging(self) -> None:
        wait_s = min(_FIRST_S, self._every_s)
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all look at once
            wait_s = self._every_s
            try:
                purged = await purge(self._bus, self._files)
            except InferbusError as error:
                log.warning("purge_failed", error=error.message)
                continue
            except Exception:
                log.exception("purge_failed")
                continue
            if purged.expired or purged.orphans:
                log.info("files_purged", expired=purged.expired, orphans=purged.orphans)
