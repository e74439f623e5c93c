"""Direct delivery, the working side: requests of a queue group, answered in their reply. What is done with a request is the
same as with one of the queue (`Serving`): the same engine, events of usage, metrics, spans and log lines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.answers.attempts import Attempt, Attempts
from inferbus.bus import Bus
from inferbus.codec import pack
from inferbus.contracts.control import CONFIRM
from inferbus.contracts.envelope import Envelope, UnknownVersion, envelope_from
from inferbus.contracts.step import Failed, Finished, Frame
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, Overloaded
from inferbus.queue.delivery import Delivery
from inferbus.queue.slots import Slots, once

log = structlog.get_logger()


class DirectDelivery(Delivery):
    """A request that is in no stream: nothing has to be acknowledged, and nothing comes back."""

    __slots__ = ()

    def __init__(self, bus: Bus, message: Msg, subject: str, free_slot: Callable[[], None]) -> None:
        """`subject` is what it would have had in the queue."""
        self._bus = bus
        self.subject = subject
        self.data = message.data
        self.headers = message.headers or {}
        self.reply = message.reply
        self.stream = ""
        self.attempt = 1
        self.seq = self.pending = 0
        self.stored_s = time.time()
        self.age_s = 0.0
        self.abandoned = False
        self.free_slot = free_slot

    async def ack_surely(self) -> None:
        """There is nothing to end."""

    async def bury(self, code: str, reason: str) -> None:
        """It is not kept: at most once."""
        log.warning("direct_failed", subject=self.subject, code=code, reason=reason)

    def _send(self, verb: bytes, send: Callable[[str, bytes], None] | None = None) -> None:
        """Nobody waits for a verdict."""


class DirectAttempt(Attempt):
    """Its end is its reply, said once."""

    def started(self, created: int, fingerprint: str, resumed: int = 0) -> None:
        """Nobody is told."""

    def _send(self, frame: Frame) -> None:
        if self.over.done() or not isinstance(frame, Finished | Failed):  # streams are not delivered directly
            return
        _reply(self._owner.bus, self.delivery.reply, frame)
        # After this pass of the event loop: the request is billed as one that ended, not as one that was stopped.
        self._owner.loop.call_soon(self._confirm)

    def _confirm(self) -> None:
        if not self.over.done():
            self.over.set_result(CONFIRM)


class DirectDoor:
    """Takes requests while there are free slots, and refuses at once while there are none. Beside the intakes of a pool, and
    with their slots."""

    def __init__(
        self,
        bus: Bus,
        attempts: Attempts,
        *,
        runtime: str,
        pool: str,
        handle: Callable[[DirectAttempt], Awaitable[None]],
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus = bus
        self._attempts = attempts
        self._runtime = runtime
        self._pool = pool
        self._handle = handle
        self._on_refused = on_refused
        self._slots: Slots | None = None
        self._subscription: Subscription | None = None
        self._paused = False
        self._running: set[asyncio.Task[None]] = set()

    async def open(self, slots: Slots) -> None:
        """Begin; again: nothing."""
        self._slots = slots
        if self._subscription is None and not self._paused:
            subject = routes.direct_pool(region=self._bus.region, runtime=self._runtime, pool=self._pool)
            self._subscription = await self._bus.listen(subject, self._on_message, queue=routes.QUEUE_DIRECT)
            log.info("direct_open", pool=self._pool)

    async def pause(self) -> None:
        self._paused = True
        old, self._subscription = self._subscription, None
        if old is not None:
            await self._bus.drain(old)

    async def resume(self) -> None:
        self._paused = False
        if self._slots is not None:
            await self.open(self._slots)

    async def drain(self, grace_s: float) -> bool:
        """Take nothing new and wait up to `grace_s` for what runs. True if all of it ended."""
        await self.pause()
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        return not self._running

    async def stop(self) -> None:
        await self.pause()
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def running(self) -> int:
        return len(self._running)

    def _on_message(self, message: Msg) -> None:
        if not message.reply:
            return  # nobody waits for it
        slots = self._slots
        if slots is None or self._paused or not slots.free:
            self._on_refused()
            self._refuse(message, Overloaded("every slot is taken"))
            return
        try:
            envelope = envelope_from(message.headers)
        except InvalidRequest as exc:
            self._refuse(message, exc, final=True)
            return
        except UnknownVersion as exc:  # another may know it
            self._refuse(message, DependencyDown(str(exc)))
            return
        slots.take()
        task = self._attempts.loop.create_task(self._run(message, envelope, once(slots.give)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, message: Msg, envelope: Envelope, free_slot: Callable[[], None]) -> None:
        found = routes.parse_direct(message.subject)
        subject = routes.infer(
            region=found.region, runtime=found.runtime, pool=found.pool, lane=routes.INTERACTIVE, bucket=0,
            tenant=found.tenant,
        )  # fmt: skip
        attempt = DirectAttempt(self._attempts, envelope, DirectDelivery(self._bus, message, subject, free_slot))
        try:
            await self._handle(attempt)
        except Exception as exc:
            log.exception("direct_error", request_id=envelope.request_id)
            attempt.failed("internal", repr(exc), final=True)
        finally:
            free_slot()

    def _refuse(self, message: Msg, error: InferbusError, *, final: bool = False) -> None:
        _reply(self._bus, message.reply, Failed(0, 1, 0, error.code, error.message, final))


def _reply(bus: Bus, subject: str, frame: Finished | Failed) -> None:
    try:
        bus.send(subject, pack([frame]))
    except InferbusError as exc:
        log.warning("direct_reply_not_sent", error=exc.message)
