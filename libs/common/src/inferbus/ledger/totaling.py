"""Totaling: read what is new in the stream, add it to its rows, note how far that came. Again and again.

Every row says which event is its last, and is written only over the version that was read. So whatever is read twice,
after a crash or by a second process, is added once, however much later; and one write carries many events.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import created_at, last_stored, read_page
from inferbus.codec import to_json
from inferbus.contracts.usage import LedgerPlace, Total, UsageEvent
from inferbus.errors import InferbusError
from inferbus.ledger.bell import Bell
from inferbus.ledger.rows import add, by_row, empty_row, events_of

_PLACE = "place"
_KNOWN_ROWS = 20_000
_AT_ONCE = 32
_LOOK_AGAIN_S = 60.0
log = structlog.get_logger()


class Overtaken(Exception):
    """Another ledger process has come further."""


class AnotherStream(Exception):
    """The stream was made anew: its sequences mean other events than those the totals speak of."""


class Totaling:
    """The totals of one stream. `every_s` is how often it looks while events come, and how old the totals may be; `idle_s`
    how often while none do (a bell says when one does); `yield_s` how long a process that was overtaken by another lets
    it do the work."""

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        registry: CollectorRegistry,
        every_s: float = 1.0,
        idle_s: float = 15.0,
        yield_s: float = 5.0,
    ) -> None:
        self._bus = bus
        self._name = name
        self._every_s = every_s
        self._idle_s = idle_s
        self._bell = Bell(bus)
        self._yield_s = yield_s
        self._rows: OrderedDict[str, tuple[int, Total]] = OrderedDict()
        self._place = LedgerPlace()
        self._place_seq = 0
        self._stream = ""
        self._reconnects = bus.reconnects
        self._looked = float("-inf")
        self.ready = asyncio.Event()
        self._counted = Counter("inferbus_ledger_events_total", "Events added to totals", registry=registry)
        self._behind = Gauge("inferbus_ledger_behind", "Events not in the totals yet, as last seen", registry=registry)

    async def run(self, stopping: asyncio.Event) -> None:
        """Add up until `stopping` is set; every step leaves the totals whole."""
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                pause_s = await self._try()
                if pause_s is None and not self._bell.armed:
                    await self._bell.arm()
                    continue  # what came before the bell could hear it
                if pause_s is None:
                    await self._bell.wait(stop, self._idle_s)
                await self._bell.disarm()
                await asyncio.wait({stop}, timeout=self._every_s if pause_s is None else pause_s)
        finally:
            stop.cancel()

    async def _try(self) -> float | None:
        """Take a step; say how long to wait for the next, None where there was nothing to add."""
        before = self._place.upto
        try:
            has_more = await self.step()
            return None if self._place.upto == before else 0.0 if has_more else self._every_s
        except Overtaken:
            self._rows.clear()
            return self._yield_s
        except AnotherStream as exc:
            log.error("usage_stream_is_another", error=str(exc))
            self._rows.clear()
            return self._yield_s
        except InferbusError as exc:
            log.warning("ledger_waits", code=exc.code, error=exc.message)
        except Exception:  # the totals stay behind, which the gauge and the log show; the next step may do better
            log.exception("ledger_step_failed")
        self._rows.clear()
        return self._every_s

    async def step(self) -> bool:
        """Add one page of events; says whether there are more.

        Raises:
            Overtaken: another process adds up. AnotherStream: nothing may be added. DependencyDown: the bus is away; what was written is not lost.
        """
        await self._read_place()
        await self._check_stream()
        stored, left = await read_page(self._bus, routes.STREAM_USAGE, routes.EVERYTHING, self._place.upto + 1)
        self._behind.set(left + len(stored))
        self.ready.set()
        if not stored:
            return False
        events = events_of(stored)
        groups = list(by_row(events).items())
        for i in range(0, len(groups), _AT_ONCE):
            await asyncio.gather(*(self._add(key, found) for key, found in groups[i : i + _AT_ONCE]))
        await self._write_place(stored[-1].seq)
        self._counted.inc(len(events))
        self._behind.set(left)
        return left > 0

    async def _add(self, key: str, events: list[tuple[int, UsageEvent]]) -> None:
        """Add events to their row, over whichever version is there."""
        while True:
            seq, row = self._rows.get(key) or await self._read_row(key, events[0][1])
            after = add(row, events)
            if after is row:
                return
            try:
                seq = await self._write(routes.KV_TOTALS, key, to_json(after), seq)
            except WrongSequence:  # another process, or our own write whose answer was lost
                self._rows.pop(key, None)
                continue
            self._rows[key] = (seq, after)
            self._rows.move_to_end(key)
            if len(self._rows) > _KNOWN_ROWS:
                self._rows.popitem(last=False)
            return

    async def _read_row(self, key: str, event: UsageEvent) -> tuple[int, Total]:
        stored = await last_stored(
            self._bus, routes.kv_stream(routes.KV_TOTALS), routes.kv_subject(routes.KV_TOTALS, key)
        )
        if stored is None:
            return 0, empty_row(event)
        return stored.seq, msgspec.json.decode(stored.data, type=Total)

    async def _read_place(self) -> None:
        """Read how far the totals are; where another process said so after us, it is its turn."""
        stored = await last_stored(
            self._bus, routes.kv_stream(routes.KV_LEDGER), routes.kv_subject(routes.KV_LEDGER, _PLACE)
        )
        if stored is None or stored.seq == self._place_seq:
            return
        was, self._place_seq = self._place_seq, stored.seq
        self._place = msgspec.json.decode(stored.data, type=LedgerPlace)
        if was and self._place.by != self._name:
            raise Overtaken

    async def _check_stream(self) -> None:
        """See from time to time, and after reconnects, that the stream is the one the totals are of.

        Raises:
            AnotherStream: it is not.
        """
        now = time.monotonic()
        if self._reconnects != self._bus.reconnects or now - self._looked > _LOOK_AGAIN_S:
            self._stream = await created_at(self._bus, routes.STREAM_USAGE)
            self._reconnects, self._looked = self._bus.reconnects, now
        if self._place.stream not in ("", self._stream):
            self._looked = float("-inf")
            raise AnotherStream(f"totals are of the one made at {self._place.stream}, this one was at {self._stream}")

    async def _write_place(self, upto: int) -> None:
        place = LedgerPlace(upto=upto, by=self._name, stream=self._stream)
        try:
            self._place_seq = await self._write(routes.KV_LEDGER, _PLACE, to_json(place), self._place_seq)
        except WrongSequence:
            raise Overtaken from None
        self._place = place

    async def _write(self, bucket: str, key: str, data: bytes, expected: int) -> int:
        return await self._bus.accept(routes.kv_subject(bucket, key), data, {EXPECTED: str(expected)})


async def place_of(bus: Bus) -> LedgerPlace:
    """Say how far the totals are.

    Raises:
        DependencyDown: the bus does not answer.
    """
    stored = await last_stored(bus, routes.kv_stream(routes.KV_LEDGER), routes.kv_subject(routes.KV_LEDGER, _PLACE))
    return LedgerPlace() if stored is None else msgspec.json.decode(stored.data, type=LedgerPlace)
