"""Core: one NATS connection, its messages and questions, and failure at once when the connection is lost."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Self

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus.bus.connection import Connection
from inferbus.bus.credentials import inbox_of, refusal_of
from inferbus.bus.dialing import REFUSED_RETRY_S, RETRY_S, dial
from inferbus.bus.refusals import PUBLISH, Refusals
from inferbus.bus.sizes import check_size
from inferbus.bus.waiting import Answered, NotPermitted, Waiting
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest
from inferbus.settings import BusSettings

_PENDING_BYTES = 64 * 1024 * 1024
_FLUSH_TICKS = 10
# What writing to a connection raises that ended and nobody has noticed yet; RuntimeError is uvloop's word for it.
_DYING = (nats.errors.Error, OSError, RuntimeError)

log = structlog.get_logger()


class Core:
    """One connection. Made by `Bus.connect`, ended by `close`."""

    def __init__(self, nc: Connection, settings: BusSettings, name: str) -> None:
        self.nc = nc
        self.region = settings.region
        self.name = name
        self._waiting = Waiting()
        self._inbox, self._inboxes = "", "_INBOX."
        self._reconnected: list[Callable[[], Awaitable[None]]] = []
        self._disconnected: list[Callable[[], None]] = []
        self._up = asyncio.Event()
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.refusals = Refusals(name)
        self.reconnects = 0

    @classmethod
    async def connect(cls, settings: BusSettings, *, name: str) -> Self:
        """Connect and keep reconnecting for ever.

        Raises:
            DependencyDown: no server answered within `connect_timeout_s`; or, at once, it refused who we are, or we it.
        """
        nc = Connection()
        bus = cls(nc, settings, name)
        inbox = inbox_of(settings)
        options = {
            "name": name,
            "pending_size": _PENDING_BYTES,
            "error_cb": bus._on_error,
            "disconnected_cb": bus._on_disconnect,
            "reconnected_cb": bus._on_reconnect,
        }
        await dial(nc, settings, bus._refused, settings.connect_timeout_s, options)
        bus._up.set()
        bus._inboxes = f"{inbox}."
        bus._inbox = f"{inbox}.{secrets.token_hex(8)}"
        await nc.listen(f"{bus._inbox}.*", bus._on_response)
        return bus

    @property
    def connected(self) -> bool:
        return self.nc.is_connected

    def is_inbox(self, subject: str) -> bool:
        """Whether an answer to `subject` reaches processes of this one's own role, and nobody else."""
        return subject.startswith(self._inboxes)

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait for the connection to be up.

        Raises:
            DependencyDown: it was still down after `timeout_s` seconds, or the server will not have us back.
        """
        if self._up.is_set():
            return
        if self._refused.done():
            raise self._away()
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise self._away() from None

    def _away(self) -> DependencyDown:
        if self._refused.done():
            return DependencyDown(f"the bus refuses this process: {self._refused.result()}", retry_after_s=5.0)
        return DependencyDown("the bus is not reachable", retry_after_s=2.0)

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Be called after every reconnect; call what is returned to be called no more."""
        self._reconnected.append(callback)
        return lambda: self._reconnected.remove(callback)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self._disconnected.append(callback)

    # --- core -----------------------------------------------------------------------------------------------------

    def gather(self, seconds: float) -> None:
        """Write no more often than every so many seconds: several messages are one system call then, here and there."""
        self.nc.gather_s = seconds

    async def publish(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None, reply: str = "", *, soon: bool = False
    ) -> None:
        """Send a core message: buffered, written when the loop next yields, lost without a trace if nobody listens. `soon`:
        with what is written next, or after 5 ms.

        Raises:
            DependencyDown: the connection is closed, or its buffer is full.
            TooLarge, InvalidRequest: nothing was sent; the server would hang up on it.
        """
        self._send(subject, data, headers, reply, soon=soon)

    def _send(self, subject: str, data: bytes, headers: dict[str, str] | None, reply: str, *, soon: bool) -> None:
        try:
            block = self.nc.block_of(headers) if headers else b""
            check_size(subject, len(block) + len(data))
            if block:
                self.nc.send_named(subject, data, reply, block, soon=soon)
            else:
                self.nc.send(subject, data, reply)
        except nats.errors.Error as exc:
            raise _translated(exc, subject) from exc

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a core message without headers, as `publish` does, from where nothing can be awaited.

        Raises:
            DependencyDown: the connection is closed, or its buffer is full.
            TooLarge, InvalidRequest: nothing was sent.
        """
        self._send(subject, data, None, reply, soon=False)

    def send_soon(self, subject: str, data: bytes) -> None:
        """Send a core message nobody waits for, such as an acknowledgement: written with the next one, or after 5 ms.

        Raises:
            DependencyDown: the connection is closed, or its buffer is full.
            TooLarge, InvalidRequest: nothing was sent.
        """
        check_size(subject, len(data))
        try:
            self.nc.send_soon(subject, data)
        except nats.errors.Error as exc:
            raise _translated(exc, subject) from exc

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]], *, queue: str = ""
    ) -> Subscription:
        """Call `callback` for every message, one at a time. What it raises is logged.

        Raises:
            DependencyDown: the connection is closed.
        """
        try:
            return await self.nc.subscribe(
                subject, queue=queue, cb=callback, pending_msgs_limit=262_144, pending_bytes_limit=_PENDING_BYTES
            )
        except nats.errors.Error as exc:
            raise _translated(exc, subject) from exc

    async def listen(self, subject: str, handler: Callable[[Msg], None], *, queue: str = "") -> Subscription:
        """Call a plain function for every message, as it is read: for what comes with every request. What it raises is
        logged.

        Raises:
            DependencyDown: the connection is closed.
        """
        try:
            return await self.nc.listen(subject, handler, queue)
        except nats.errors.Error as exc:
            raise _translated(exc, subject) from exc

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription now. What the server had already sent is dropped."""
        if not self.nc.is_closed:
            with contextlib.suppress(nats.errors.BadSubscriptionError):  # it has ended already
                await subscription.unsubscribe()

    async def drain(self, subscription: Subscription, *, within_s: float = 1.0) -> None:
        """End a subscription, but let what the server had already sent reach its callback.

        By hand, because nats-py's own drain writes its PING before the UNSUB, so that its PONG proves nothing.
        """
        try:
            if self.nc.is_connected:
                await self._unsubscribe_in_order(subscription, within_s)
        except _DYING as exc:
            log.debug("drain_failed", bus=self.name, error=repr(exc))
        finally:
            await self.unsubscribe(subscription)

    async def _unsubscribe_in_order(self, subscription: Subscription, within_s: float) -> None:
        nc = self.nc
        await nc._send_unsubscribe(subscription._id)
        for _ in range(_FLUSH_TICKS):
            if not nc.pending_data_size:
                break
            await asyncio.sleep(0)  # the flusher writes it
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await nc._send_ping(pong)
        await asyncio.wait({pong}, timeout=within_s)  # never cancelled: a late PONG would end the read loop
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(subscription._pending_queue.join(), within_s)

    async def request(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None, *, timeout_s: float = 2.0,
        soon: bool = False,
    ) -> Msg:  # fmt: skip
        """Ask and wait for one answer. Fails at the disconnect, not at the timeout. `soon`: as `publish`.

        Raises:
            NoResponders: nobody listens there.
            NotPermitted: the server does not let us; told as soon as it says so.
            DependencyDown: the connection was lost, or no answer came within `timeout_s` seconds.
            TooLarge, InvalidRequest: nothing was sent.
        """
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        token = self.ask(subject, data, headers, partial(_resolve, future), timeout_s=timeout_s, soon=soon)
        try:
            return await future
        finally:
            self._waiting.forget(token)

    def ask(
        self, subject: str, data: bytes, headers: dict[str, str] | None, answered: Answered, *, timeout_s: float,
        soon: bool = False,
    ) -> str:  # fmt: skip
        """Ask, and have a plain function called once, later: with the answer, or with what `request` would raise for want of
        one. Gives what `forget` takes.

        Raises:
            DependencyDown: the connection is down, or takes nothing now. TooLarge, InvalidRequest: nothing was sent.
        """
        if not self.nc.is_connected:
            raise self._away()
        token = self._waiting.add(subject, answered, timeout_s)
        try:
            self._send(subject, data, headers, f"{self._inbox}.{token}", soon=soon)
        except BaseException:
            self._waiting.forget(token)
            raise
        return token

    def forget(self, token: str) -> None:
        """Have the function that waits for an answer not called."""
        self._waiting.forget(token)

    async def close(self) -> None:
        """Flush what is buffered and close. Safe to call while disconnected."""
        self._waiting.fail(DependencyDown("the bus connection is closing"))
        try:
            if self.nc.is_connected:
                await self.nc.flush(timeout=1)
        except _DYING as exc:
            log.warning("bus_flush_failed", bus=self.name, error=repr(exc))
        try:
            await self.nc.close()
        except _DYING as exc:
            log.warning("bus_close_failed", bus=self.name, error=repr(exc))

    # --- callbacks of nats-py ---------------------------------------------------------------------------------------

    def _on_response(self, message: Msg) -> None:
        self._waiting.answer(message.subject.rsplit(".", 1)[1], message)

    async def _on_error(self, error: Exception) -> None:
        refused = self.refusals.note(error)
        if refused is not None:  # told here and nowhere else; who asked would wait for its timeout
            action, subject = refused
            if action == PUBLISH:
                self._waiting.fail(NotPermitted(f"the bus does not let this process publish to {subject}"), subject)
            return
        why = refusal_of(error)
        if why and not self._refused.done():
            log.error("bus_refuses_us", bus=self.name, why=why)
            self._refused.set_result(why)
            self.nc.options["reconnect_time_wait"] = REFUSED_RETRY_S
        # Failed attempts to reconnect come ten times a second; `bus_disconnected` has said it.
        (log.warning if self.nc.is_connected and not why else log.debug)("bus_error", bus=self.name, error=repr(error))

    async def _on_disconnect(self) -> None:
        self._waiting.fail(DependencyDown("the bus connection was lost"))
        if not self._up.is_set():
            return
        self._up.clear()
        if not self.nc.is_closed:
            log.warning("bus_disconnected", bus=self.name)
        for callback in self._disconnected:
            callback()

    async def _on_reconnect(self) -> None:
        log.info("bus_reconnected", bus=self.name)
        if self._refused.done():
            self._refused = asyncio.get_running_loop().create_future()
            self.nc.options["reconnect_time_wait"] = RETRY_S
        self.reconnects += 1
        self._up.set()
        for callback in list(self._reconnected):
            try:
                await callback()
            except DependencyDown as exc:
                log.warning("bus_reconnect_step_failed", bus=self.name, error=exc.message)
            except Exception:  # would end nats-py's reconnection half way, and the other steps with it
                log.exception("bus_reconnect_step_failed", bus=self.name)


def _translated(error: nats.errors.Error, subject: str) -> InferbusError:
    if isinstance(error, nats.errors.BadSubjectError | nats.errors.BadHeaderError):
        return InvalidRequest(f"cannot be sent to {subject[:200]!r}: {error!r}")
    return DependencyDown(f"the bus takes nothing now: {error!r}")


def _resolve(future: asyncio.Future[Msg], answer: Msg | DependencyDown) -> None:
    if future.done():
        return
    if isinstance(answer, DependencyDown):
        future.set_exception(answer)
    else:
        future.set_result(answer)
