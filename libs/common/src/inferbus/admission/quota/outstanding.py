"""OutstandingRecord: tells in the bucket `outstanding` what this process has leased of days and months and not settled.

It is for the day this process is killed: others then give back what its requests did not spend (`reclaiming`). The record
states at most what is there. So it is written after shares have grown, and before anything of them is subtracted from a
counter (`Lease`). What is recorded may be used until `fence`; then the record must be renewed first, since whoever gave it
back has changed it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.meter import Meter
from inferbus.admission.quota.reservation import OpenReservations
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import last_stored
from inferbus.contracts.outstanding import Outstanding

_EVERY_S = 2.0
_AGED_S = 3600.0
_KEEP_S, _KEEP_NOTHING_S = 40 * 86_400, 120
_MOST = 20_000
_TRIES = 5
NEVER = float("inf")
Tags = Callable[[], tuple[list[int], int]]
log = structlog.get_logger()


class OutstandingRecord:
    """One per process. `holder` is its asker, `tags` gives the tags of its open requests and the next one; `hold_s` is for
    how long what is recorded may be used without renewing the record."""

    def __init__(self, bus: Bus, holder: str, clock: Callable[[], float], tags: Tags, *, hold_s: float) -> None:
        self.holder = holder
        self.open: OpenReservations = {}
        self.fence = NEVER
        """Server time until which what is recorded may be used."""
        self._bus = bus
        self._clock = clock
        self._tags = tags
        self._hold_s = hold_s
        self._every_s = min(_EVERY_S, hold_s / 4)
        self._seq = 0
        self._written: dict[Lease, Meter] = {}
        self._may_stand = False
        self._differs_since: float | None = None
        self._lock = asyncio.Lock()

    @property
    def is_empty(self) -> bool:
        return not self._written

    async def tick(self, leases: dict[Lease, Meter]) -> None:
        """Write, if there is something to say and it is time.

        Raises:
            InferbusError: it could not be written.
        """
        now = time.monotonic()
        known = leases | self._written
        is_same = all(lease.outstanding == lease.recorded for lease, meter in known.items() if meter.is_long)
        if is_same:
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now
        differs_s = 0.0 if self._differs_since is None else now - self._differs_since
        is_old = self.fence - self._clock() < self._hold_s * 2 / 3
        if is_old or differs_s >= self._every_s:  # what comes and goes in between is never written
            self._differs_since = None
            await self.write(leases)

    async def renew(self, leases: dict[Lease, Meter]) -> None:
        """Make sure that what is recorded is still this process's.

        Raises:
            DependencyDown: the bus does not answer.
        """
        async with self._lock:
            if self._clock() >= self.fence:
                await self._write(leases)

    async def write(self, leases: dict[Lease, Meter]) -> None:
        """Write what is outstanding now.

        Raises:
            InferbusError: it could not be written; what was, and what may have been, counts.
        """
        async with self._lock:
            await self._write(leases)

    async def _write(self, leases: dict[Lease, Meter]) -> None:
        subject = routes.kv_subject(routes.KV_OUTSTANDING, self.holder)
        for _ in range(_TRIES):
            now = self._clock()
            self._let_age(now)
            found = self._now_outstanding(leases | self._written, now)
            for lease in found:
                lease.recorded = max(lease.recorded, lease.outstanding)
            amounts = {lease: lease.outstanding for lease in found}
            record = self._record(amounts, now)
            self._written |= found
            stood, self._may_stand = self._may_stand, self._may_stand or bool(found)
            ttl_s = _KEEP_S if found else _KEEP_NOTHING_S
            try:
                self._seq = await self._bus.accept(
                    subject, msgspec.json.encode(record), {EXPECTED: str(self._seq)}, ttl_s=ttl_s
                )
            except WrongSequence:  # this one is not stored
                self._may_stand = stood
                await self._find_out(subject)
                continue
            for lease in self._written:
                lease.note_recorded(amounts.get(lease, 0))
            self._written, self._may_stand = found, bool(found)
            self.fence = record.until if found else NEVER
            return
        log.warning("outstanding_not_written", holder=self.holder)

    def _let_age(self, now: float) -> None:
        for reservation, made in list(self.open.items()):
            if now - made < _AGED_S:
                return
            del self.open[reservation]
            reservation.age()

    @staticmethod
    def _now_outstanding(leases: dict[Lease, Meter], now: float) -> dict[Lease, Meter]:
        found: dict[Lease, Meter] = {}
        for lease, meter in leases.items():
            if meter.is_long and not lease.is_lost and lease.outstanding and not meter.is_over(lease, now):
                found[lease] = meter
                if len(found) >= _MOST:
                    break
        return found

    def _record(self, amounts: dict[Lease, int], now: float) -> Outstanding:
        tags, next_tag = self._tags()
        return Outstanding(
            until=now + self._hold_s,
            since=next(iter(self.open.values()), now),
            next_tag=next_tag,
            open=tags,
            shares={lease.subject: amount for lease, amount in amounts.items()},
        )

    async def _find_out(self, subject: str) -> None:
        """Learn why the record is not as it was left: a write of ours whose answer was lost, an empty one that went by
        itself, or somebody gave back for us."""
        stored = await last_stored(self._bus, routes.kv_stream(routes.KV_OUTSTANDING), subject)
        self._seq = stored.seq if stored is not None else 0
        if stored is not None and not msgspec.json.decode(stored.data, type=Outstanding).claimed_by:
            return
        if self._may_stand:
            self._lose()

    def _lose(self) -> None:
        lost = [(lease, meter) for lease, meter in self._written.items() if lease.recorded]
        for lease, meter in lost:
            lease.lose()
            meter.begin_anew(lease)
        self._written, self.fence, self._may_stand = {}, NEVER, False
        if lost:
            log.warning("outstanding_given_back", holder=self.holder, limits=len(lost))
