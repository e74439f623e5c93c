"""FrameSender: a worker's frames to all its askers, one bus message per event-loop tick (= engine step) and asker."""

from __future__ import annotations

import asyncio

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import pack
from inferbus.contracts.step import Frame

_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_SOON_S = 0.005
log = structlog.get_logger()


class FrameSender:
    """Collects frames in order and sends them when the current tick is over."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, list[Frame]] = {}
        self._timer: asyncio.Handle | None = None
        self._is_late = False

    def send(self, asker: str, frame: Frame) -> None:
        """Send at the end of this tick."""
        self._add(asker, frame)
        if self._timer is None or self._is_late:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._is_late = self._loop.call_soon(self.flush), False

    def send_soon(self, asker: str, frame: Frame) -> None:
        """Send with the next frame that does not wait, or after 5 ms: a fast engine's answer then is one message."""
        self._add(asker, frame)
        if self._timer is None:
            self._timer, self._is_late = self._loop.call_later(_SOON_S, self.flush), True

    def _add(self, asker: str, frame: Frame) -> None:
        pending = self._pending.get(asker)
        if pending is None:
            self._pending[asker] = [frame]
        else:
            pending.append(frame)

    def flush(self) -> None:
        """Send what is pending."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, {}
        for asker, frames in pending.items():
            try:
                self._send(routes.step_of(asker), frames)
            except Exception as exc:  # buffer full while disconnected: numbered frames are asked for again
                log.warning("frames_not_sent", asker=asker, frames=len(frames), error=repr(exc))

    def _send(self, subject: str, frames: list[Frame]) -> None:
        """Send frames as one message, or as several where they are too many for one (all of an attempt, again)."""
        data = pack(frames)
        if len(data) > _MAX_MESSAGE_BYTES and len(frames) > 1:
            middle = len(frames) // 2
            self._send(subject, frames[:middle])
            self._send(subject, frames[middle:])
        else:
            self._bus.send(subject, data)
