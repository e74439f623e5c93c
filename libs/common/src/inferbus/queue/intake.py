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
from inferbus.bus.server_clock import ServerClock
from inferbus.errors import DependencyDown
from inferbus.queue.delivery import Delivery
from inferbus.queue.fair_share import Share
from inferbus.queue.settlement import settle
from inferbus.queue.slots import Slots, once
from inferbus.queue.turns import Turns
from inferbus.ticks import until_tick

_EXPIRES_S = 20.0
_EXPIRES_BY_TURNS_S = 4.0  # a worker that is full lets go of the buckets another may have room for
_HEARTBEAT_S = 2.0
_POLL_S = 3.0
_POLL_IDLE_S = 15.0  # nothing came, nothing runs, nothing waited
_PULL_AGAIN_S = 0.2
_CHECK_S = 1.0
_ACK_KINDS = "$JS.ACK"
log = structlog.get_logger()

Handler = Callable[[Delivery], Awaitable[None]]


class IntakeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull. `ack_wait_s` must be the consumer's; `max_attempts` bounds bugs, `max_retries` transients."""

    stream: str
    consumer: str
    lane: str
    ack_wait_s: float = 8.0
    max_attempts: int = 5
    max_retries: int = 50


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    ts: datetime | None = None
    error: dict[str, object] | None = None


class Intake:
    """Pulls for one consumer. `handle` runs as a task per message and returns when the message is dealt with:
    it acks itself, or raises, and `verdict_of` decides."""

    def __init__(self, bus: Bus, settings: IntakeSettings, slots: Slots, handle: Handler) -> None:
        self._bus = bus
        self._settings = settings
        self.lane = settings.lane
        self._slots = slots
        self._handle = handle
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{settings.stream}.{settings.consumer}"
        self._subscription: Subscription | None = None
        self._subscribing = asyncio.Lock()
        self._inbox = ""
        self.share = Share()
        self._turns: Turns | None = None
        self._generation = 0
        self._seen = 0.0
        self._pull_at = 0.0
        self._paused = True
        self._stopped = False
        self._came = False
        self.rows_each = 1
        """Rows of the last message: what one that is pulled may need."""
        self._running: dict[Delivery, asyncio.Task[None]] = {}
        self._attempts: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._forget: Callable[[], None] = _nothing
        self._leave: Callable[[], None] = _nothing
        self._kick = asyncio.Event()
        self._clock = ServerClock()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Begin pulling; survives a bus or consumer that is not there yet."""
        if self._turns is None:
            self._leave = self._slots.register(self._kick.set)
        self._forget = self._bus.on_reconnect(self._renew)
        self._paused = False
        self._tasks = [
            asyncio.create_task(job(), name=job.__name__)
            for job in (self._pull_loop, self._check_loop, self._lease_loop, self._poll_loop)
        ]
        await self._renew()

    async def pause(self) -> None:
        """Stop taking messages now: without interest the server drops the standing pull, and what it had already sent
        is handed back."""
        self._paused = True
        async with self._subscribing:
            old, self._subscription = self._subscription, None
            self.share.on_order = 0
        if old is not None:
            await self._bus.drain(old)

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
        self._forget()
        self._leave()
        self._forget = self._leave = _nothing
        tasks = (*self._tasks, *self._running.values(), *self._retiring)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for delivery in list(self._running):  # tasks cancelled before their first step never saw it
            delivery.nak()
            self._release(delivery)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def held(self) -> int:
        """Slots that what runs holds here, or waits for."""
        return sum(delivery.rows for delivery in self._running)

    @property
    def pending(self) -> int:
        """Messages waiting in the queue, as last seen."""
        return self.share.pending

    # --- taking turns -------------------------------------------------------------------------------------------------

    def join(self, turns: Turns) -> None:
        """Pull no more on its own but when it is this bucket's turn; also while running."""
        self._leave()
        self._leave = _nothing
        self._turns = turns
        self.share.is_standing = True
        turns.add(self)
        self._kick.set()

    @property
    def can_order(self) -> bool:
        is_listening = not self._paused and self._subscription is not None and self._bus.connected
        return is_listening and time.monotonic() >= self._pull_at

    def order(self, count: int, *, standing: bool) -> None:
        """Pull `count` messages: wait for them, or take what is there."""
        if not self.share.on_order:
            self._seen = time.monotonic()  # while nothing was on order, silence said nothing
        body: dict[str, object] = {"batch": count, "no_wait": True}
        if standing:
            body = {
                "batch": count,
                "expires": int(_EXPIRES_BY_TURNS_S * 1e9),
                "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            }
        self._bus.send(self._next, msgspec.json.encode(body), self._inbox)
        self.share.ordered(count, standing=standing)

    # --- pulling ------------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Begin a new generation: a fresh inbox, nothing outstanding. What the old one still brings is ours too."""
        async with self._subscribing:
            if self._paused or not self._bus.connected:
                return
            old, self._subscription = self._subscription, None
            if old is not None:
                # Without its inbox an old pull ends at the server, also one that a short disconnection left standing.
                self._retire(old)
            self._generation += 1
            generation = self._generation
            self._inbox = self._bus.nc.new_inbox()

            def on_message(message: Msg) -> None:
                self._on_message(message, generation)

            self._subscription = await self._bus.listen(self._inbox, on_message)
            self.share.on_order = 0
            self._seen = time.monotonic()
            self._kick.set()

    def _retire(self, old: Subscription) -> None:
        task = asyncio.create_task(self._bus.drain(old), name="intake-retire")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _pull_loop(self) -> None:
        while True:
            await self._kick.wait()
            self._kick.clear()
            await _survive(self._pull)

    async def _check_loop(self) -> None:
        """Notice a pull that died without a word, however busy the other intakes keep the pull loop."""
        while True:
            await asyncio.sleep(until_tick(_CHECK_S))
            await _survive(self._check)
            self._kick.set()

    async def _check(self) -> None:
        silent = time.monotonic() - self._seen > 2.2 * _HEARTBEAT_S
        if self._subscription is None or (self.share.on_order and silent):
            await self._renew()

    async def _pull(self) -> None:
        if not self.can_order:
            return
        if self._turns is not None:
            self._turns.wake()
            return
        window = self._slots.window
        if self._settings.lane == routes.BATCH:  # standing it waits for one; what is known to wait comes in handfuls
            window = max(1, min(self._slots.handful, self.share.pending))
        free = -(-self._slots.free_for(self._settings.lane, routes.BATCH) // self.rows_each)
        want = min(free, window) - self.share.on_order
        if want <= 0 or (self.share.on_order and want < window // 2):
            return
        self.share.on_order += want
        body = {"batch": want, "expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
        await self._bus.publish(self._next, msgspec.json.encode(body), reply=self._inbox)

    def _on_message(self, message: Msg, generation: int) -> None:
        if generation == self._generation:
            self._seen = time.monotonic()
        if message.headers is not None and "Status" in message.headers and not message.reply.startswith(_ACK_KINDS):
            if generation == self._generation:
                self._on_status(message.headers)
            return
        delivery = Delivery(self._bus, message)
        if generation == self._generation and self.share.on_order:
            self.share.on_order -= 1
        if self._turns is not None:
            self._turns.charge(self.share, delivery.rows)
        self.share.pending = delivery.pending
        self.rows_each = delivery.rows
        if self._is_running(delivery):
            return
        if self._paused:
            delivery.nak()
            return
        self._came = True
        self._slots.take()
        delivery.free_slot, delivery.slots = once(self._slots.give), self._slots
        self._running[delivery] = self._loop.create_task(self._run(delivery))
        self._attempts[delivery.seq] = delivery.attempt
        self._kick.set()

    def _is_running(self, delivery: Delivery) -> bool:
        """Whether this is no new attempt but one that runs here: a server killed within milliseconds of a delivery
        forgets it, and delivers again with the same number. What runs renews and ends the message for both."""
        return self._attempts.get(delivery.seq, 0) >= delivery.attempt

    def _on_status(self, headers: dict[str, str]) -> None:
        if headers["Status"] == "100":
            return
        undelivered = headers.get("Nats-Pending-Messages")
        self.share.on_order = max(0, self.share.on_order - int(undelivered)) if undelivered else 0
        if headers["Status"] == "404" or (self._turns is not None and headers["Status"] == "408"):
            self.share.pending = 0  # other workers took what was left
        elif headers["Status"] != "408":  # no consumer, leader change, shutdown: not in a tight loop
            self._pull_at = time.monotonic() + _PULL_AGAIN_S
            self._loop.call_later(_PULL_AGAIN_S * 1.05, self._kick.set)
        self._kick.set()

    # --- running ------------------------------------------------------------------------------------------------------

    async def _run(self, delivery: Delivery) -> None:
        try:
            if not self._clock.known:
                await _survive(self._read_consumer)
            delivery.age_s = max(0.0, self._clock.now() - delivery.stored_s)
            try:
                await self._handle(delivery)
            except Exception as exc:  # the edge of every message: nothing a handler raises may stop the intake
                await self._settle(delivery, exc)
            except asyncio.CancelledError as exc:
                if self._stopped:
                    raise
                await self._settle(delivery, exc)  # something the handler awaited was cancelled, not the handler
        except asyncio.CancelledError:
            delivery.nak()
            raise
        except Exception:  # the message comes back when its lease is over
            log.exception("settle_failed", subject=delivery.subject, seq=delivery.seq)
        finally:
            self._release(delivery)

    def _release(self, delivery: Delivery) -> None:
        del self._running[delivery]
        if self._attempts.get(delivery.seq) == delivery.attempt:
            del self._attempts[delivery.seq]
        delivery.free_slot()

    async def _settle(self, delivery: Delivery, error: BaseException) -> None:
        settings = self._settings
        await settle(delivery, error, max_attempts=settings.max_attempts, max_retries=settings.max_retries)

    async def _lease_loop(self) -> None:
        """Renew every lease at a third of `ack_wait`, from receipt to the end."""
        while True:
            await asyncio.sleep(self._settings.ack_wait_s / 3)
            for delivery in list(self._running):
                delivery.progress()

    async def _poll_loop(self) -> None:
        """Read the queue's length (every delivery also tells it) and the server's clock; seldom while nothing happens."""
        while True:
            await _survive(self._read_consumer)
            self._came = False
            for _ in range(int(_POLL_IDLE_S / _POLL_S)):
                await asyncio.sleep(until_tick(_POLL_S))
                if self._came or self._running or self.share.pending:
                    break

    async def _read_consumer(self) -> None:
        asked = time.monotonic()
        try:
            answer = await self._bus.request(f"$JS.API.CONSUMER.INFO.{self._settings.stream}.{self._settings.consumer}")
        except DependencyDown as exc:
            log.debug("intake_poll_failed", consumer=self._settings.consumer, error=exc.message)
            return
        info = msgspec.json.decode(answer.data, type=_ConsumerInfo)
        if info.error is None:
            self.share.pending = info.num_pending
        if info.ts is not None:
            self._clock.learn(info.ts, asked=asked)


def _nothing() -> None: ...


async def _survive(step: Callable[[], Awaitable[None]]) -> None:
    """Run one step of a loop that must go on: without it no message is ever pulled again, and nobody would know."""
    try:
        await step()
    except DependencyDown as exc:
        log.debug("intake_waits_for_bus", error=exc.message)
    except Exception:
        log.exception("intake_step_failed")
