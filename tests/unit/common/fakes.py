"""A bus port in memory, for the logic of askers and attempts: what was published is kept, and may be lost on the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg

from inferbus.contracts.presence import READY, Presence

Callback = Callable[[Msg], Awaitable[None]]


def message(subject: str, data: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None) -> Msg:
    return Msg(Client(), subject, reply, data, headers)


class FakeBus:
    """Subscriptions match exactly, or by a last token `*`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.connected = True
        self.reconnects = 0
        self._subscribers: dict[str, Callback] = {}
        self._reconnected: list[Callable[[], Awaitable[None]]] = []

    async def publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None, reply: str = "") -> None:
        self.send(subject, data)

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        self.sent.append((subject, data))

    def send_soon(self, subject: str, data: bytes) -> None:
        self.send(subject, data)

    async def listen(self, subject: str, handler: Callable[[Msg], None]) -> None:
        async def callback(message: Msg) -> None:
            handler(message)

        self._subscribers[subject] = callback

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> None:
        self._subscribers[subject] = callback

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        self._reconnected.append(callback)

    async def reconnect(self) -> None:
        for callback in self._reconnected:
            await callback()

    async def deliver(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Hand a message to whoever subscribed to it."""
        wildcard = subject.rsplit(".", 1)[0] + ".*"
        callback = self._subscribers.get(subject) or self._subscribers.get(wildcard)
        if callback is not None:
            await callback(message(subject, data, reply=reply))

    def take(self) -> list[tuple[str, bytes]]:
        sent, self.sent = self.sent, []
        return sent


class Wire(FakeBus):
    """One bus for both sides. Each message meets the next of `fates`: lost, doubled, late, or (and after the last) fine."""

    def __init__(self, fates: list[str]) -> None:
        super().__init__()
        self._fates = deque(fates)
        self._late: list[tuple[str, bytes]] = []

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        fate = self._fates.popleft() if self._fates else "fine"
        if fate == "late":
            self._late.append((subject, data))
        elif fate != "lost":
            self.sent += [(subject, data)] * (2 if fate == "doubled" else 1)

    async def run(self, until: Callable[[], bool]) -> None:
        """Carry messages until the condition holds; late ones come after the others of their turn."""
        async with asyncio.timeout(10):
            while not until():
                batch, self._late = self.take() + self._late, []
                for subject, data in batch:
                    await self.deliver(subject, data)
                await asyncio.sleep(0.001)


class FakePresence:
    """Who lives is what the test says."""

    def __init__(self, *beats: Presence) -> None:
        self.beats = {beat.process: beat for beat in beats}
        self.lost: list[Callable[[Presence], None]] = []

    settled = True

    def alive(self) -> dict[str, Presence]:
        return self.beats

    def on_lost(self, callback: Callable[[Presence], None]) -> None:
        self.lost.append(callback)

    def has_asker(self, asker: str) -> bool:
        return any(beat.asker == asker for beat in self.beats.values())

    def has_ended(self, asker: str) -> bool:
        return False

    def lose(self, process: str) -> None:
        beat = self.beats.pop(process)
        for callback in self.lost:
            callback(beat)


def worker(process: str, incarnation: str = "i1") -> Presence:
    return Presence(process=process, role="worker", incarnation=incarnation, region="local", state=READY, pools=["m"])


def gateway(asker: str) -> Presence:
    return Presence(process="gw", role="gateway", incarnation="g1", region="local", state=READY, asker=asker)
