"""FrameSender: a worker's frames to all its askers, one bus message per event-loop tick (= engine step) and asker."""

from __future__ import annotations

import asyncio

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import pack
from inferbus.contracts.step import Frame

_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_SOON_S = 0.002
log = structlog.get_logger()


class FrameSender:
    """Collects frames in order and sends them when the current tick is over."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._pending: dict[str, list[Frame]] = {}
        self._kick = asyncio.Event()
        self._late: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="frame-sender")

    def send(self, asker: str, frame: Frame) -> None:
        """Send at the end of this tick."""
        self._add(asker, frame)
        self._kick.set()

    def send_soon(self, asker: str, frame: Frame) -> None:
        """Send with the next frame that does not wait, or after 2 ms: a fast engine's answer then is one message."""
        self._add(asker, frame)
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(_SOON_S, self._kick_late)

    def _add(self, asker: str, frame: Frame) -> None:
        pending = self._pending.get(asker)
        if pending is None:
            self._pending[asker] = [frame]
        else:
            pending.append(frame)

    def _kick_late(self) -> None:
        self._late = None
        self._kick.set()

    async def stop(self) -> None:
        """Send what is pending, then end."""
        if self._late is not None:
            self._late.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()

    async def _run(self) -> None:
        while True:
            await self._kick.wait()
            self._kick.clear()
            await self._flush()

    async def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        for asker, frames in pending.items():
            try:
                await self._send(routes.step_of(asker), frames)
            except Exception as exc:  # buffer full while disconnected: numbered frames are asked for again
                log.warning("frames_not_sent", asker=asker, frames=len(frames), error=repr(exc))

    async def _send(self, subject: str, frames: list[Frame]) -> None:
        """Send frames as one message, or as several where they are too many for one (all of an attempt, again)."""
        data = pack(frames)
        if len(data) > _MAX_MESSAGE_BYTES and len(frames) > 1:
            middle = len(frames) // 2
            await self._send(subject, frames[:middle])
            await self._send(subject, frames[middle:])
        else:
            await self._bus.publish(subject, data)
