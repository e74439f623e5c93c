"""Keeper: looks after what is leased. Returns what is not needed, renews slots, keeps the clock right."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from inferbus import routes
from inferbus.admission.quota.budgets import Budgets
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.meter import Meter
from inferbus.admission.quota.outstanding import OutstandingRecord
from inferbus.admission.quota.slots import SlotLease
from inferbus.bus import Bus
from inferbus.bus.server_clock import ServerClock, server_time
from inferbus.errors import InferbusError

_TICK_S = 0.25
_MEASURE_EVERY_S, _MEASURE_AGAIN_S = 30.0, 0.5
_COUNT_EVERY_S = 2.0  # what budgets go by may be a moment old; every lease counted is a round trip
log = structlog.get_logger()


class Keeper:
    """A task that wakes four times a second while anything is leased, and to measure the clock."""

    def __init__(self, bus: Bus, clock: ServerClock, budgets: Budgets, outstanding: OutstandingRecord) -> None:
        self._bus = bus
        self._clock = clock
        self._budgets = budgets
        self._outstanding = outstanding
        self.leases: dict[Lease, Meter] = {}
        self._slots: set[SlotLease] = set()
        self._task: asyncio.Task[None] | None = None
        self._measured = self._counted = float("-inf")
        self._leased = asyncio.Event()

    async def start(self) -> None:
        await self._measure()
        self._task = asyncio.create_task(self._run(), name="quota-keeper")

    async def die(self) -> None:
        """End and return nothing, as a crash does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def stop(self) -> None:
        """Return everything that is free."""
        await self.die()
        if self._bus.connected:
            for lease in self.leases:
                lease.part()
            await self._write_outstanding()
            await asyncio.gather(*(lease.close() for lease in self.leases), *(slots.close() for slots in self._slots))
            await self._budgets.count(self.leases.items())

    def look_after(self, lease: Lease, meter: Meter) -> None:
        self.leases[lease] = meter
        lease.is_kept = True
        self._leased.set()

    def look_after_slots(self, slots: SlotLease) -> None:
        self._slots.add(slots)
        slots.is_kept = True
        self._leased.set()

    async def _run(self) -> None:
        while True:
            await self._pause()
            if not self._bus.connected:
                continue  # shares are kept: what cannot be subtracted would be lost
            try:
                await self._tick()
            except InferbusError as exc:
                log.info("quota_tick_failed", error=exc.message)
            except Exception:  # shares would never come back
                log.exception("quota_tick_failed")

    async def _pause(self) -> None:
        """Wait for the next tick, as long as possible where nothing is leased."""
        if not self.leases and not self._slots and self._outstanding.is_empty:
            self._leased.clear()
            due_s = self._measured + _MEASURE_EVERY_S - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due_s, _TICK_S)):
                    await self._leased.wait()
        await asyncio.sleep(_TICK_S)

    async def _tick(self) -> None:
        if time.monotonic() - self._measured > _MEASURE_EVERY_S:
            await self._measure()
        if not self._clock.known:
            return
        if time.monotonic() - self._counted >= _COUNT_EVERY_S:
            self._counted = time.monotonic()
            await self._budgets.count(list(self.leases.items()))
        now = self._clock()
        for lease, meter in list(self.leases.items()):
            if not lease.tick() or (meter.is_over(lease, now) and not lease.spent):
                del self.leases[lease]
                lease.is_kept = False
        await asyncio.gather(*(self._tick_slots(slots) for slots in list(self._slots)))
        await self._outstanding.tick(self.leases)

    async def _write_outstanding(self) -> None:
        """Say last what stays: the reservations of requests that are still open."""
        try:
            if not self._outstanding.is_empty:
                await self._outstanding.write(self.leases)
        except InferbusError as exc:
            log.info("outstanding_not_written", error=exc.message)

    async def _tick_slots(self, slots: SlotLease) -> None:
        try:
            if not await slots.tick():
                self._slots.discard(slots)
                slots.is_kept = False
        except InferbusError as exc:
            log.info("slots_not_renewed", error=exc.message)

    async def _measure(self) -> None:
        try:
            await self._clock.measure(lambda: server_time(self._bus, routes.STREAM_QUOTA))
            self._measured = time.monotonic()
        except InferbusError as exc:
            self._measured = time.monotonic() - _MEASURE_EVERY_S + _MEASURE_AGAIN_S
            log.info("server_time_not_measured", error=exc.message)
