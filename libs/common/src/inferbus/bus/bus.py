"""The bus: one NATS connection, the durable accept, and failure at once when the connection is lost.

It knows connections, subjects given to it and JetStream's answers; it knows no model, tenant or frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.bus.connection import Connection
from inferbus.bus.credentials import inbox_of, refusal_of
from inferbus.bus.dialing import REFUSED_RETRY_S, RETRY_S, dial
from inferbus.bus.pub_ack import sequence_of
from inferbus.bus.refusals import PUBLISH, Refusals
from inferbus.bus.sizes import check_size
from inferbus.bus.waiting import NOBODY, NoResponders, NotPermitted, Waiting, fail, time_out
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest
from inferbus.settings import BusSettings

_PENDING_BYTES = 64 * 1024 * 1024
_FLUSH_TICKS = 10
# What writing to a connection raises that ended and nobody has noticed yet; RuntimeError is uvloop's word for it.
_DYING = (nats.errors.Error, OSError, RuntimeError)

log = structlog.get_logger()


class _Removed(msgspec.Struct):
    success: bool = False


class _StreamState(msgspec.Struct, frozen=True):
    subjects: dict[str, int] = {}


class _StreamInfo(msgspec.Struct):
    state: _StreamState = _StreamState()


class Bus:
    """One connection. Made by `Bus.connect`, ended by `close`."""

    def __init__(self, nc: Connection, settings: BusSettings, name: str) -> None:
        self.nc = nc
        self.region = settings.region
        self.name = name
        self._waiting: Waiting = {}
        self._tokens = itertools.count()
        self._inbox, self._inboxes = "", "_INBOX."
        self._reconnected: list[Callable[[], Awaitable[None]]] = []
        self._disconnected: list[Callable[[], None]] = []
        self._up = asyncio.Event()
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.refusals = Refusals(name)
        self.reconnects = 0

    @classmethod
    async def connect(cls, settings: BusSettings, *, name: str) -> Bus:
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
            raise DependencyDown(f"the bus refuses this process: {self._refused.result()}", retry_after_s=5.0)
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise DependencyDown("the bus is not reachable", retry_after_s=2.0) from None

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
        check_size(subject, data, headers)
        try:
            await self.nc.publish(subject, data, reply=reply, headers=headers, soon=soon)
        except nats.errors.Error as exc:
            raise _translated(exc, subject) from exc

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a core message without headers, as `publish` does, from where nothing can be awaited.

        Raises:
            DependencyDown: the connection is closed, or its buffer is full.
            TooLarge, InvalidRequest: nothing was sent.
        """
        check_size(subject, data, None)
        try:
            self.nc.send(subject, data, reply)
        except nats.errors.Error as exc:
            raise _translated(exc, subject) from exc

    def send_soon(self, subject: str, data: bytes) -> None:
        """Send a core message nobody waits for, such as an acknowledgement: written with the next one, or after 5 ms.

        Raises:
            DependencyDown: the connection is closed, or its buffer is full.
            TooLarge, InvalidRequest: nothing was sent.
        """
        check_size(subject, data, None)
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
        if not self.nc.is_connected:
            raise DependencyDown("the bus is not reachable")
        token = str(next(self._tokens))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = (subject, future)
        # A timer on the future: half the cost of asyncio.timeout, and this runs once per accepted request.
        timer = loop.call_later(timeout_s, time_out, future, subject, timeout_s)
        try:
            await self.publish(subject, data, headers, f"{self._inbox}.{token}", soon=soon)
            message = await future
        finally:
            timer.cancel()
            self._waiting.pop(token, None)
        if message.headers is not None and message.headers.get("Status") == "503":
            raise NoResponders(f"nobody answers on {subject}")
        return message

    # --- JetStream ------------------------------------------------------------------------------------------------

    async def accept(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str],
        *,
        msg_id: str | None = None,
        ttl_s: int | None = None,
        hold_s: float = 3.0,
        soon: bool = False,
    ) -> int:
        """Publish durably: when this returns, the message survives any process kill. `soon`: as `publish`.

        While the bus is away it holds the message up to `hold_s` seconds; retries carry the same `msg_id`.

        Returns: the sequence in the stream.

        Raises:
            DependencyDown: the bus stayed away, or no stream takes the subject, or we may not (`NotPermitted`).
            TenantOverloaded: the subject's own bound is reached (err_code 10077, per subject).
            Overloaded: the stream is full.
            TooLarge: over the server's maximum.
        """
        headers = dict(headers)
        if msg_id is not None:
            headers["Nats-Msg-Id"] = msg_id
        if ttl_s is not None:
            headers["Nats-TTL"] = str(max(1, ttl_s))
        give_up = time.monotonic() + hold_s
        while True:
            left = give_up - time.monotonic()
            try:
                await self.wait_connected(max(0.01, left))
                answer = await self.request(subject, data, headers, timeout_s=max(0.5, left), soon=soon)
                return sequence_of(answer.data)
            except DependencyDown as exc:
                if isinstance(exc, NotPermitted) or time.monotonic() + 0.05 >= give_up or msg_id is None:
                    raise
                await asyncio.sleep(0.05)

    async def remove(self, stream: str, sequence: int) -> bool:
        """Take one message out of a stream, delivered or not. False: it was not there any more.

        Raises:
            DependencyDown: the bus is away, or did not answer (nor may this role do it).
        """
        body = msgspec.json.encode({"seq": sequence, "no_erase": True})
        answer = await self.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", body)
        return msgspec.json.decode(answer.data, type=_Removed).success

    async def kv_get(self, bucket: str, key: str) -> bytes | None:
        """Read one key; None if it is absent or deleted."""
        subject = f"$JS.API.DIRECT.GET.{routes.kv_stream(bucket)}.{routes.kv_subject(bucket, key)}"
        message = await self.request(subject)
        headers = message.headers or {}
        if headers.get("Status") == "404" or "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
            return None
        return message.data

    async def kv_put(self, bucket: str, key: str, value: bytes) -> int:
        return await self.accept(routes.kv_subject(bucket, key), value, {})

    async def kv_delete(self, bucket: str, key: str) -> None:
        await self.accept(routes.kv_subject(bucket, key), b"", {"KV-Operation": "DEL"})

    async def kv_keys(self, bucket: str) -> list[str]:
        """List the keys of a bucket, deleted ones whose marker is still stored included (`kv_get` gives None)."""
        body = msgspec.json.encode({"subjects_filter": routes.kv_subject(bucket, ">")})
        answer = await self.request(f"$JS.API.STREAM.INFO.{routes.kv_stream(bucket)}", body)
        info = msgspec.json.decode(answer.data, type=_StreamInfo)
        return sorted(subject.removeprefix(routes.kv_subject(bucket, "")) for subject in info.state.subjects)

    async def close(self) -> None:
        """Flush what is buffered and close. Safe to call while disconnected."""
        fail(self._waiting, DependencyDown("the bus connection is closing"))
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
        _, future = self._waiting.pop(message.subject.rsplit(".", 1)[1], NOBODY)
        if future is not None and not future.done():
            future.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        refused = self.refusals.note(error)
        if refused is not None:  # told here and nowhere else; who asked would wait for its timeout
            action, subject = refused
            if action == PUBLISH:
                fail(self._waiting, NotPermitted(f"the bus does not let this process publish to {subject}"), subject)
            return
        why = refusal_of(error)
        if why and not self._refused.done():
            log.error("bus_refuses_us", bus=self.name, why=why)
            self._refused.set_result(why)
            self.nc.options["reconnect_time_wait"] = REFUSED_RETRY_S
        # Failed attempts to reconnect come ten times a second; `bus_disconnected` has said it.
        (log.warning if self.nc.is_connected and not why else log.debug)("bus_error", bus=self.name, error=repr(error))

    async def _on_disconnect(self) -> None:
        fail(self._waiting, DependencyDown("the bus connection was lost"))
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
