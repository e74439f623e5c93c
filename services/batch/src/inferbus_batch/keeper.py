"""Keeper: opens the room when there is a job, and closes it when there has been none for a while. Idle costs a watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from inferbus.errors import DependencyDown
from inferbus_batch.jobs_view import JobsView
from inferbus_batch.room import Room, RoomDeps, open_room

_AGAIN_S = 1.0
log = structlog.get_logger()


class Keeper:
    """`run` it until the process is to stop. `room` is the one that is open."""

    def __init__(self, deps: RoomDeps, stopping: asyncio.Event) -> None:
        self._deps = deps
        self._jobs: JobsView = deps.jobs
        self._stopping = stopping
        self._wake = asyncio.Event()
        self.room: Room | None = None

    async def run(self, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a room was opened or closed."""
        forget = self._jobs.on_change(lambda _: self._wake.set())
        waking = asyncio.create_task(self._wake_to_stop())
        try:
            while not self._stopping.is_set():
                if self._jobs.open():
                    await self._work(on_change)
                await self._news(None)
        finally:
            forget()
            waking.cancel()

    async def _work(self, on_change: Callable[[], None]) -> None:
        try:
            async with open_room(self._deps) as room:
                self.room = room
                on_change()
                await room.start()
                log.info("batch_room_opened", jobs=len(self._jobs.open()))
                try:
                    await self._until_idle()
                finally:
                    await room.stop(self._deps.settings.drain_s)
        except DependencyDown as error:
            log.warning("batch_room_not_opened", error=error.message)
            self._wake.set()
            await asyncio.sleep(_AGAIN_S)
        finally:
            self.room = None
            on_change()

    async def _until_idle(self) -> None:
        while not self._stopping.is_set():
            idle = not self._jobs.open()
            if not await self._news(self._deps.settings.rest_after_s if idle else None) and not self._jobs.open():
                log.info("batch_room_closed")
                return

    async def _news(self, timeout_s: float | None) -> bool:
        """Wait for a job to change, or the end; False where nothing has happened."""
        if self._stopping.is_set():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
            self._wake.clear()
            return True
        return False

    async def _wake_to_stop(self) -> None:
        await self._stopping.wait()
        self._wake.set()
