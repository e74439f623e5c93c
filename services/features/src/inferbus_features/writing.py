"""PushWriter: pushed rows into the store, many messages at once; every message is acknowledged after its rows are written.

A row that is wrong is refused alone: the rest of its message is written, and the refused rows become a dead letter with the
fields that are why. Whose push it is must be entitled to it, and has limits: over those of a minute a message waits in the
stream, as long as it likes; over those of a day or a month it is a dead letter. While the store is away messages wait here, unacknowledged. Writing again is harmless: the store keeps
what is newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.bus import Bus
from inferbus.codec import from_json
from inferbus.contracts import features as wire
from inferbus.contracts.features import PushMessage, RowFault
from inferbus.contracts.step import Usage
from inferbus.errors import NotFound, Permanent, RateLimited
from inferbus.queue.delivery import Delivery
from inferbus.queue.intake import Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus_features.dead_rows import bury_rows
from inferbus_features.domain.pushed import Pushed, split_rows
from inferbus_features.domain.rows import RowLimits, SourceShape
from inferbus_features.paying import Paying
from inferbus_features.ports import FeatureStore, StoreDown, WriteRow
from inferbus_features.push_usage import PushUsage

_LONGEST_WAIT_S = 60.0
"""A push over a minute's limit waits in the stream, one over a day's is a dead letter. As requests at the bus door."""
_PATIENCE_S = 0.5
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
log = structlog.get_logger()


class WriteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`batch_rows`: rows written in one call of the store, during which this process does nothing else. `messages`: how many
    it may hold at once. `gather_s`: how long the first message waits for others."""

    batch_rows: int = 200
    messages: int = 256
    gather_s: float = 0.005
    limits: RowLimits = RowLimits()


DEFAULTS = WriteSettings()


class WriteMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("inferbus_features_rows_written_total", "Rows written to the store", registry=registry)
        self.refused = Counter(
            "inferbus_features_rows_refused_total",
            "Pushed rows that were refused",
            ["source", "field"],
            registry=registry,
        )
        self.held_back = Counter(
            "inferbus_features_pushes_held_back_total", "Deliveries of pushes over a limit", registry=registry
        )
        self.waiting = Gauge(
            "inferbus_features_push_pending", "Pushed messages that are not written yet", registry=registry
        )


class PushWriter:
    """`start`, then `stop`. `shapes` gives the sources as they are declared now; `wrote` is told view, rows and
    the newest row's time."""

    def __init__(
        self,
        bus: Bus,
        store: FeatureStore,
        shapes: Callable[[], Mapping[str, SourceShape]],
        wrote: Callable[[str, int, float], None],
        metrics: WriteMetrics,
        paying: Paying,
        usage: PushUsage,
        settings: WriteSettings = DEFAULTS,
    ) -> None:
        self._bus = bus
        self._store = store
        self._shapes = shapes
        self._metrics = metrics
        self._paying = paying
        self._usage = usage
        self._wrote = wrote
        self._settings = settings
        self._queue: asyncio.Queue[tuple[Pushed, asyncio.Future[None]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        intake = IntakeSettings(
            stream=routes.STREAM_FEATURES, consumer=routes.DURABLE_FEATURES, lane=routes.INTERACTIVE
        )  # fmt: skip
        self._intake = Intake(bus, intake, Slots(settings.messages, reserve=0), self._on_push)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._write_all(), name="push-writer")
        await self._intake.start()

    async def stop(self, grace_s: float = 2.0) -> None:
        """Write what is here, as far as that is done within `grace_s`; the rest is handed back."""
        await self._intake.drain(grace_s)
        await self._intake.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _on_push(self, delivery: Delivery) -> None:
        to = routes.parse_features(delivery.subject)
        identity = Identity(tenant=to.tenant)
        try:
            identity = self._paying.identity_of(to.tenant, delivery.headers.get(wire.KEY, ""), to.name)
            message = from_json(delivery.data, PushMessage, what="push")
            shape = self._shape_of(to)
        except Permanent:
            await self._usage.settle(delivery, identity, to.name, "", 0)
            raise
        pushed, faults = split_rows(shape, message.rows, delivery.stored_s, self._settings.limits)
        rows = len(message.rows) - len({one.row for one in faults}) if message.rows else 0
        try:
            await self._write_paid(pushed, identity, to.name, rows)
        except RateLimited as exc:
            await self._hold_back(delivery, exc, identity, to.name)
            return
        if faults:
            await self._bury(delivery, message, faults, to.name)
        await self._usage.settle(delivery, identity, to.name, message.id, rows)
        self._metrics.waiting.set(self._intake.pending)
        delivery.ack()

    def _shape_of(self, to: routes.FeaturesSubject) -> SourceShape:
        """Raises NotFound where the tenant has no such source."""
        shape = self._shapes().get(to.name)
        if shape is None or not shape.is_open_to(to.tenant):
            raise NotFound(f"there is no source {to.name!r}; there are {', '.join(sorted(self._shapes())) or 'none'}")
        return shape

    async def _write_paid(self, pushed: Pushed, identity: Identity, source: str, rows: int) -> None:
        """Have the rows written, and count them at their limits.

        Raises:
            RateLimited: not now. Whatever else is wrong with the rows: then nothing is counted.
        """
        reservation = await self._paying.reserve(identity, source, rows)
        try:
            if pushed.views:
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._queue.put_nowait((pushed, done))
                await done
        except BaseException:
            reservation.refund()
            raise
        reservation.settle(Usage(rows))

    async def _hold_back(self, delivery: Delivery, error: RateLimited, identity: Identity, source: str) -> None:
        """Let a push that is over a limit wait; the longer it has, the less often it asks."""
        self._metrics.held_back.inc()
        if error.hopeless or error.retry_after_s > _LONGEST_WAIT_S:
            await self._usage.settle(delivery, identity, source, "", 0)
            await delivery.bury(error.code, error.message)
        else:
            delivery.nak(max(error.retry_after_s, min(_LONGEST_WAIT_S / 2, delivery.attempt * _PATIENCE_S)))

    async def _bury(self, delivery: Delivery, message: PushMessage, faults: list[RowFault], source: str) -> None:
        """Make refused rows a dead letter."""
        for one in faults:
            self._metrics.refused.labels(source, one.fault.param).inc()
        await bury_rows(self._bus, delivery, message, faults)

    async def _write_all(self) -> None:
        while True:
            batch = [await self._queue.get()]
            if self._queue.empty() and self._settings.gather_s:
                await asyncio.sleep(self._settings.gather_s)
            while not self._queue.empty() and sum(pushed.rows for pushed, _ in batch) < self._settings.batch_rows:
                batch.append(self._queue.get_nowait())
            await self._write(batch)

    async def _write(self, batch: list[tuple[Pushed, asyncio.Future[None]]]) -> None:
        """Write messages together; where that fails for another reason than the store's being away, one by one, so that the
        one that is why fails alone."""
        batch = [one for one in batch if not one[1].done()]
        by_view: dict[str, list[WriteRow]] = {}
        for pushed, _ in batch:
            for view, rows in pushed.views.items():
                by_view.setdefault(view, []).extend(rows)
        error = await self._stored(by_view)
        if error is not None and len(batch) > 1:
            for one in batch:
                await self._write([one])
            return
        for _, done in batch:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    async def _stored(self, by_view: dict[str, list[WriteRow]]) -> Exception | None:
        """Write rows, waiting for the store as long as it takes; gives what else is wrong."""
        for view, rows in by_view.items():
            for n in range(0, len(rows), self._settings.batch_rows):
                part = rows[n : n + self._settings.batch_rows]
                tries = 0
                while True:
                    try:
                        self._store.write(view, part)
                    except StoreDown as exc:
                        log.warning("features_store_down", error=str(exc), view=view)
                        await asyncio.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
                        tries += 1
                        continue
                    except Exception as exc:  # whatever it is, it is of these rows
                        return exc
                    break
                self._metrics.rows.inc(len(part))
                self._wrote(view, len(part), max(row.event_time for row in part))
                await asyncio.sleep(0)
        return None
