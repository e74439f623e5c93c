"""Intake: pull exactly the free slots from one JetStream consumer, and keep doing so through restarts.

A standing raw pull with a callback: half the CPU of `fetch`, and not deaf after a server restart (recipes/nats.md
section 2). It owns pulling, leases and what happens to a message whose handling failed; what a message means is the
handler's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.bus import Bus
from inferbus.delivery import Delivery
from inferbus.errors import DependencyDown, InferbusError, Transient, Verdict, verdict_of
from inferbus.slots import Slots

_EXPIRES_S = 20.0
_HEARTBEAT_S = 2.0
_POLL_S = 1.0
_PULL_AGAIN_S = 0.2
_ACK_KINDS = "$JS.ACK"
log = structlog.get_logger()

Handler = Callable[[Delivery], Awaitable[None]]


class IntakeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull. `ack_wait_s` must be the consumer's; `max_attempts` bounds bugs, `max_retries` transients."""

    stream: str
    consumer: str
    lane: str
    ack_wait_s: float = 20.0
    max_attempts: int = 5
    max_retries: int = 50


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    ts: str = ""
    error: dict[str, object] | None = None


class Intake:
    """Pulls for one consumer. `handle` runs as a task per message and returns when the message is dealt with:
    it acks itself, or raises, and `verdict_of` decides."""

    def __init__(self, bus: Bus, settings: IntakeSettings, slots: Slots, handle: Handler) -> None:
        self._bus = bus
        self._settings = settings
        self._slots = slots
        self._handle = handle
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{settings.stream}.{settings.consumer}"
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._generation = self._outstanding = 0
        self._seen = 0.0
        self._pull_at = 0.0
        self._paused = True
        self._stopped = False
        self._running: dict[Delivery, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._kick = asyncio.Event()
        self._clock_offset_s = 0.0
        self.pending = 0

    async def start(self) -> None:
        """Begin pulling; survives a bus or consumer that is not there yet."""
        self._slots.register(self._kick.set)
        self._bus.on_reconnect(self._renew)
        self._paused = False
        self._tasks = [
            asyncio.create_task(job(), name=job.__name__)
            for job in (self._pull_loop, self._lease_loop, self._poll_loop)
        ]
        await self._renew()

    async def pause(self) -> None:
        """Stop taking messages now: without interest the server drops the standing pull."""
        self._paused = True
        await self._unsubscribe()

    async def resume(self) -> None:
        self._paused = False
        await self._renew()

    async def drain(self, grace_s: float) -> bool:
        """Take nothing new and wait up to `grace_s` for what runs. True if all of it ended."""
        await self.pause()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=grace_s)
        return not self._running

    async def stop(self) -> None:
        """End at once; messages still running are handed back."""
        self._stopped = True
        await self.pause()
        for task in (*self._tasks, *self._running.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)

    @property
    def running(self) -> int:
        return len(self._running)

    # --- pulling ------------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Begin a new generation: a fresh inbox, nothing outstanding. Late messages of the old one are still ours."""
        if self._paused or not self._bus.connected:
            return
        old, self._subscription = self._subscription, None
        self._generation += 1
        generation = self._generation
        self._inbox = self._bus.nc.new_inbox()

        async def on_message(message: Msg) -> None:
            await self._on_message(message, generation)

        self._subscription = await self._bus.subscribe(self._inbox, on_message)
        self._outstanding = 0
        self._seen = time.monotonic()
        self._kick.set()
        if old is not None:
            await old.unsubscribe(2**31 - 1)

    async def _unsubscribe(self) -> None:
        old, self._subscription = self._subscription, None
        self._outstanding = 0
        if old is not None and not self._bus.nc.is_closed:
            await old.unsubscribe()

    async def _pull_loop(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._kick.wait(), _HEARTBEAT_S / 4)
            except asyncio.TimeoutError:
                await self._check()
            self._kick.clear()
            await self._pull()

    async def _check(self) -> None:
        silent = time.monotonic() - self._seen > 2.2 * _HEARTBEAT_S
        if self._bus.connected and self._outstanding and silent:
            await self._renew()

    async def _pull(self) -> None:
        if self._paused or self._subscription is None or not self._bus.connected or time.monotonic() < self._pull_at:
            return
        batch = self._settings.lane == routes.BATCH
        window = 1 if batch else max(1, self._slots.total // 4)
        want = min(self._slots.free_for(self._settings.lane, routes.BATCH), window) - self._outstanding
        if want <= 0 or (self._outstanding and want < window // 2):
            return
        self._outstanding += want
        body = {"batch": want, "expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
        await self._bus.publish(self._next, msgspec.json.encode(body), reply=self._inbox)

    async def _on_message(self, message: Msg, generation: int) -> None:
        if generation == self._generation:
            self._seen = time.monotonic()
        if message.headers is not None and "Status" in message.headers and not message.reply.startswith(_ACK_KINDS):
            if generation == self._generation:
                self._on_status(message.headers)
            return
        if generation == self._generation and self._outstanding:
            self._outstanding -= 1
        delivery = Delivery(self._bus, message)
        delivery.age_s = max(0.0, time.time() + self._clock_offset_s - delivery.stored_s)
        self.pending = delivery.pending
        if self._paused:
            await delivery.nak()
            return
        self._slots.take()
        task = asyncio.create_task(self._run(delivery))
        self._running[delivery] = task
        self._kick.set()

    def _on_status(self, headers: dict[str, str]) -> None:
        if headers["Status"] == "100":
            return
        undelivered = headers.get("Nats-Pending-Messages")
        self._outstanding = max(0, self._outstanding - int(undelivered)) if undelivered else 0
        if headers["Status"] != "408":  # no consumer, leader change, shutdown: not in a tight loop
            self._pull_at = time.monotonic() + _PULL_AGAIN_S
        self._kick.set()

    # --- running ------------------------------------------------------------------------------------------------------

    async def _run(self, delivery: Delivery) -> None:
        try:
            await self._handle(delivery)
        except asyncio.CancelledError:
            await delivery.nak()
            raise
        except Exception as exc:  # the edge of every message: nothing a handler raises may stop the intake
            await self._settle(delivery, exc)
        finally:
            del self._running[delivery]
            self._slots.give()

    async def _settle(self, delivery: Delivery, error: Exception) -> None:
        code = error.code if isinstance(error, InferbusError) else "internal"
        reason = error.message if isinstance(error, InferbusError) else f"{type(error).__name__}: {error}"
        match verdict_of(error):
            case Verdict.TERMINATE:
                await delivery.bury(code, reason)
            case Verdict.ACKNOWLEDGE:
                await delivery.ack()
            case Verdict.RETRY:
                if delivery.attempt >= self._settings.max_retries:
                    await delivery.bury(code, reason)
                else:
                    assert isinstance(error, Transient)
                    await delivery.nak(error.retry_after_s)
            case Verdict.BUG:
                log.exception("handler_bug", subject=delivery.subject, seq=delivery.seq, attempt=delivery.attempt)
                if delivery.attempt >= self._settings.max_attempts:
                    await delivery.bury(code, reason)
                else:
                    await delivery.nak(0.2 * 2**delivery.attempt)

    async def _lease_loop(self) -> None:
        """Renew every lease at a third of `ack_wait`, from receipt to the end."""
        while True:
            await asyncio.sleep(self._settings.ack_wait_s / 3)
            for delivery in list(self._running):
                await delivery.progress()

    async def _poll_loop(self) -> None:
        """Read the queue's length and the server's clock once a second."""
        subject = f"$JS.API.CONSUMER.INFO.{self._settings.stream}.{self._settings.consumer}"
        while True:
            try:
                before = time.time()
                info = msgspec.json.decode((await self._bus.request(subject)).data, type=_ConsumerInfo)
                if info.error is None:
                    self.pending = info.num_pending
                    server_s = datetime.fromisoformat(info.ts[:26].rstrip("Z") + "+00:00").timestamp()
                    self._clock_offset_s = server_s - (before + time.time()) / 2
            except DependencyDown:
                log.debug("intake_poll_failed", consumer=self._settings.consumer)
            await asyncio.sleep(_POLL_S)
