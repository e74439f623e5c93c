"""PushWriter: pushed rows into the store, many messages at once; every message is acknowledged after its rows are written.

A row that is wrong is refused alone: the rest of its message is written, and the refused rows become a dead letter with the
fields that are why. While the store is away messages wait here, unacknowledged. Writing again is harmless: the store keeps
what is newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import from_json
from inferbus.contracts.features import PushMessage
from inferbus.errors import NotFound
from inferbus.queue.delivery import Delivery
from inferbus.queue.intake import Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus_features.dead_rows import bury_rows
from inferbus_features.domain.pushed import Pushed, split_rows
from inferbus_features.domain.rows import RowLimits, SourceShape
from inferbus_features.ports import FeatureStore, StoreDown, WriteRow

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
        settings: WriteSettings = DEFAULTS,
    ) -> None:
        self._bus = bus
        self._store = store
        self._shapes = shapes
        self._metrics = metrics
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
        pushed_to = routes.parse_features(delivery.subject)
        source, shape = pushed_to.name, self._shapes().get(pushed_to.name)
        if shape is None or not shape.is_open_to(pushed_to.tenant):
            raise NotFound(f"there is no source {source!r}; there are {', '.join(sorted(self._shapes())) or 'none'}")
        message = from_json(delivery.data, PushMessage, what="push")
        pushed, faults = split_rows(shape, message.rows, delivery.stored_s, self._settings.limits)
        if pushed.views:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.put_nowait((pushed, done))
            await done
        if faults:
            for one in faults:
                self._metrics.refused.labels(source, one.fault.param).inc()
            await bury_rows(self._bus, delivery, message, faults)
        self._metrics.waiting.set(self._intake.pending)
        delivery.ack()

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
