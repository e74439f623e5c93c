"""Bell: hear that an event of usage was stored, so that the stream need not be looked at while nothing happens."""

from __future__ import annotations

import asyncio

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.bus import Bus


class Bell:
    """Listens only while it is armed: under load the stream is looked at anyway, and no event comes here too."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._subscription: Subscription | None = None
        self._rung = asyncio.Event()
        bus.on_reconnect(self._on_reconnect)

    @property
    def armed(self) -> bool:
        return self._subscription is not None

    async def arm(self) -> None:
        """Hear every event stored from now on. What was stored before it is the caller's to look for."""
        self._rung.clear()
        self._subscription = await self._bus.listen(routes.SUBJECTS_USAGE, self._on_event)

    async def disarm(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._bus.unsubscribe(subscription)

    async def wait(self, stop: asyncio.Task[object], within_s: float) -> None:
        """Wait until it rings, `stop` ends or `within_s` seconds are over; at once where it rang since it was armed."""
        ring = asyncio.create_task(self._rung.wait())
        await asyncio.wait({stop, ring}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        ring.cancel()

    async def _on_reconnect(self) -> None:
        self._rung.set()  # what was stored meanwhile was not heard

    def _on_event(self, _: Msg) -> None:
        self._rung.set()
