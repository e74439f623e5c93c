"""Calling: at a limit's end, what other holders have free comes back to the counter, where whoever needs it finds it.

Nothing is handed from one holder to another: what is free is subtracted from the counter, as always, and the answer says that it
is there. So a message that is lost costs a moment, and no order of messages makes more of a limit than there is. Who has
been asked says at once, for a second, that something else has become free, and gives that back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from weakref import WeakValueDictionary

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from inferbus import routes
from inferbus.admission.quota.lease import Lease
from inferbus.bus import Bus
from inferbus.contracts.shares import ShareFreed, ShareWanted
from inferbus.errors import InferbusError

_WAIT_S = 0.05
_WANTED_S = 1.0  # longer than whoever called is silent (`Lease`)
_RECORD_EVERY_S = 0.25
log = structlog.get_logger()
_encode = msgspec.json.encode
_decode_wanted = msgspec.json.Decoder(ShareWanted).decode
_decode_freed = msgspec.json.Decoder(ShareFreed).decode


class _Call:
    """Waits for answers: of those in `silent`, and `missing` in all. Whoever gave enough ends it."""

    __slots__ = ("amount", "ended", "freed", "missing", "number", "silent")

    def __init__(self, number: int, amount: int, known: set[str], holders: int) -> None:
        self.number = number
        self.amount = amount
        self.silent = set(known)
        self.missing = holders - 1
        self.freed = 0
        self.ended = asyncio.Event()
        self._look()

    def hear(self, holder: str, freed: int) -> None:
        self.silent.discard(holder)
        self.missing -= 1
        self.freed += freed
        self._look()

    def _look(self) -> None:
        if self.freed >= self.amount or (not self.silent and self.missing <= 0):
            self.ended.set()


class Calling:
    """One per holder (`me`). `holders` tells about how many share limits; `write_record` says on the bus what is outstanding."""

    def __init__(
        self, bus: Bus, me: str, holders: Callable[[], int], write_record: Callable[[], Awaitable[None]]
    ) -> None:
        self._bus = bus
        self._me = me
        self._holders = holders
        self._write_record = write_record
        self._recorded = float("-inf")
        self._leases: WeakValueDictionary[str, Lease] = WeakValueDictionary()
        self._calls: dict[str, _Call] = {}
        self._numbers = itertools.count(1)
        self._known: set[str] = set()
        self._busy: set[Lease] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        self._subscriptions = [
            await self._bus.listen(routes.QUOTA_WANTED_ALL, self._on_wanted),
            await self._bus.listen(routes.quota_freed(self._me), self._on_freed),
        ]

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await self._bus.unsubscribe(subscription)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def know(self, lease: Lease) -> None:
        """Look here for what others want of its counter."""
        self._leases[lease.subject] = lease

    async def call(self, subject: str, amount: int) -> int:
        """Have others give back up to `amount` each of what they have free of a counter; returns how much they said there is."""
        if not self._bus.connected:
            return 0
        call = self._calls[subject] = _Call(next(self._numbers), amount, self._known, self._holders())
        wanted = ShareWanted(counter=subject, amount=amount, holder=self._me, call=call.number)
        timer = asyncio.get_running_loop().call_later(_WAIT_S, call.ended.set)
        try:
            self._bus.send(routes.quota_wanted(routes.parse_quota(subject).tenant), _encode(wanted))
            await call.ended.wait()
        except InferbusError:
            return 0
        finally:
            timer.cancel()
            del self._calls[subject]
        if call.freed < amount:
            self._known -= call.silent
        return call.freed

    def hand_over(self, lease: Lease) -> None:
        """Something has become free that others may want."""
        now = time.monotonic()
        for holder, until in list(lease.wanted_by.items()):
            if until < now:
                del lease.wanted_by[holder]
            else:
                self._tell(holder, lease.subject, lease.share.free)
        if lease.wanted_by and lease not in self._busy:
            self._busy.add(lease)
            self._spawn(self._hand_over(lease))

    # --- messages -----------------------------------------------------------------------------------------------------

    def _on_wanted(self, message: Msg) -> None:
        wanted = _decode_wanted(message.data)
        if wanted.holder == self._me:
            return
        lease = self._leases.get(wanted.counter)
        if lease is None:
            self._tell(wanted.holder, wanted.counter, 0, wanted.call)
            return
        lease.wanted_by[wanted.holder] = time.monotonic() + _WANTED_S
        if lease.share.free or lease.is_settling:
            self._spawn(self._answer(lease, wanted))
        else:
            self._tell(wanted.holder, wanted.counter, 0, wanted.call)

    def _on_freed(self, message: Msg) -> None:
        freed = _decode_freed(message.data)
        self._known.add(freed.holder)
        call = self._calls.get(freed.counter)
        if call is not None and call.number == freed.call:
            call.hear(freed.holder, freed.amount)
        elif freed.amount and (lease := self._leases.get(freed.counter)) is not None:
            lease.forget_refusal()

    async def _answer(self, lease: Lease, wanted: ShareWanted) -> None:
        self._tell(wanted.holder, lease.subject, await self._release(lease, wanted.amount), wanted.call)

    async def _hand_over(self, lease: Lease) -> None:
        try:
            while lease.share.free and lease.wanted_by:
                await self._release(lease, lease.share.free)
        finally:
            self._busy.discard(lease)

    async def _release(self, lease: Lease, most: int) -> int:
        freed = await lease.release(most)
        now = time.monotonic()
        if lease.is_parting and now - self._recorded >= _RECORD_EVERY_S:
            self._recorded = now
            try:
                await self._write_record()
            except InferbusError as exc:
                log.info("outstanding_not_written", error=exc.message)
            freed += await lease.release(0)
        return freed

    def _tell(self, holder: str, counter: str, amount: int, call: int = 0) -> None:
        freed = ShareFreed(counter=counter, amount=amount, holder=self._me, call=call)
        try:
            self._bus.send(routes.quota_freed(holder), _encode(freed))
        except InferbusError as exc:
            log.debug("share_not_told", error=exc.message)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="quota-calling")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
