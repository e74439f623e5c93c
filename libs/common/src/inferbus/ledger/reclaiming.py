"""Reclaiming: gives back what dead gateways had of limits of days and months, once, and never what may still be spent.

A holder is given up when its hold is over, when no work is left on the bus that is as old as that, and when events of usage
that came late would be there too. Then somebody claims its record, over the revision that was read, and subtracts what the
ledger does not say was spent. Whoever dies between the two has stranded it: nothing is subtracted twice.
"""

from __future__ import annotations

import asyncio
import random

import msgspec
import structlog

from inferbus import routes
from inferbus.admission.quota.counters import Counters
from inferbus.bus import Bus
from inferbus.bus.oldest import oldest_stored
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.server_clock import ServerClock, server_time
from inferbus.bus.stored import read_since, read_stored
from inferbus.contracts.outstanding import Outstanding
from inferbus.contracts.usage import events_in
from inferbus.errors import InferbusError
from inferbus.ledger.names import OF
from inferbus.ledger.unspent import Unspent

_CLAIMED_KEEP_S = 86_400
_PAUSE_S = 0.02  # between two pages of events: there are other things to do
log = structlog.get_logger()


class Reclaiming:
    """One per ledger process; any of them may do it. `every_s` is how often it looks, and how much longer than its hold a
    holder is left alone: what was reserved in time may be published a little later. `late_s` is how long after its work
    an event of usage may come (`UsageLog` holds an acknowledgement for a minute, and tries on for eight)."""

    def __init__(
        self, bus: Bus, *, name: str, clock: ServerClock, counters: Counters, every_s: float, late_s: float
    ) -> None:
        self._bus = bus
        self._name = name
        self._clock = clock
        self._counters = counters
        self._late_s = late_s
        self._every_s = every_s
        self._idle_since: dict[str, float] = {}
        self.claimed = 0
        """Dead holders that were given back for."""

    async def run(self) -> None:
        """Look from time to time, until it is cancelled."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.5))  # noqa: S311 - so that ledgers take turns
            if not self._bus.connected:
                continue
            try:
                await self._clock.measure(lambda: server_time(self._bus, routes.STREAM_QUOTA))
                await self.look()
            except InferbusError as exc:
                log.info("reclaiming_waits", error=exc.message)
            except Exception:  # others look too; the next time may do better
                log.exception("reclaiming_failed")

    async def look(self) -> None:
        """Give back for whoever is dead long enough.

        Raises:
            InferbusError: the bus does not answer; nothing was claimed, or what was is logged.
        """
        now = self._clock()
        dead = [found for found in await self._records() if self._is_dead(found[1], now)]
        if not dead:
            self._idle_since.clear()
            return
        oldest = await oldest_stored(self._bus, routes.INFER_ALL)
        known = {holder for holder, _, _ in dead}
        self._idle_since = {holder: at for holder, at in self._idle_since.items() if holder in known}
        for holder, record, seq in dead:
            if oldest <= record.until + self._every_s:
                self._idle_since.pop(holder, None)
            elif now - self._idle_since.setdefault(holder, now) >= self._late_s:
                await self._give_back(holder, record, seq)

    def _is_dead(self, record: Outstanding, now: float) -> bool:
        return bool(record.shares) and not record.claimed_by and record.until + self._every_s < now

    async def _records(self) -> list[tuple[str, Outstanding, int]]:
        prefix = routes.kv_subject(routes.KV_OUTSTANDING, "")
        stored = await read_stored(self._bus, routes.kv_stream(routes.KV_OUTSTANDING), f"{prefix}*")
        return [(one.headers["Nats-Subject"].removeprefix(prefix), _decode(one.data), one.seq) for one in stored]

    async def _give_back(self, holder: str, record: Outstanding, seq: int) -> None:
        unspent = await self._read(Unspent(holder, record), record.since - self._every_s)
        claimed = msgspec.json.encode(Outstanding(until=self._clock(), claimed_by=self._name))
        subject = routes.kv_subject(routes.KV_OUTSTANDING, holder)
        try:
            await self._bus.accept(subject, claimed, {EXPECTED: str(seq)}, ttl_s=_CLAIMED_KEEP_S)
        except WrongSequence:  # somebody else was first, or it lives
            return
        self.claimed += 1
        back = unspent.left(self._clock())
        log.warning("dead_gateway_given_back", holder=holder, by=self._name, back=back, of=record.shares)
        for counter, amount in back.items():
            try:
                await self._counters.add(counter, -amount)
            except InferbusError as exc:  # it stays used until the window ends
                log.info("quota_not_given_back", subject=counter, amount=amount, error=exc.message)

    async def _read(self, unspent: Unspent, since: float) -> Unspent:
        """Have it count what the ledger says was spent."""
        for tenant in sorted(unspent.tenants):
            async for page in read_since(self._bus, routes.STREAM_USAGE, routes.usage_filter(tenant), since):
                for stored in page:
                    if unspent.concerns(stored.headers.get(OF) or stored.headers.get("Nats-Msg-Id", "")):
                        for event in events_in(stored.data):
                            unspent.count(event)
                await asyncio.sleep(_PAUSE_S)
        return unspent


def _decode(data: bytes) -> Outstanding:
    return msgspec.json.decode(data, type=Outstanding)
