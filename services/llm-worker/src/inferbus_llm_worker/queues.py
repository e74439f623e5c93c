"""Queues: the intakes of one pool, one per lane and bucket, all sharing the engine's slots.

How many buckets there are is said in `models` and followed while the worker runs. A bucket that is no longer used is
still pulled until the restart: it may hold work.
"""

from __future__ import annotations

import asyncio

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.intake import Handler, Intake, IntakeSettings
from inferbus.models import ModelRegistry
from inferbus.slots import Slots

_LOOK_S = 0.5
log = structlog.get_logger()


class Queues:
    """Begins with bucket 0, so that a registry that is late delays nothing."""

    def __init__(self, bus: Bus, models: ModelRegistry, *, pool: str, runtime: str, handle: Handler) -> None:
        self._bus = bus
        self._models = models
        self._pool = pool
        self._runtime = runtime
        self._handle = handle
        self._intakes: list[Intake] = []
        self._buckets = 0
        self._paused = False
        self._slots: Slots | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, slots: int) -> None:
        """Begin to pull for `slots` requests at once."""
        self._slots = Slots(slots)
        await self._grow(self._slots, 1)
        self._task = asyncio.create_task(self._follow(self._slots), name="queues-follow")

    @property
    def slots(self) -> int:
        return self._slots.total if self._slots is not None else 0

    @property
    def running(self) -> int:
        return sum(intake.running for intake in self._intakes)

    @property
    def pending(self) -> int:
        """Messages waiting in the pool's queues, as last seen."""
        return sum(intake.pending for intake in self._intakes)

    @property
    def pending_batch(self) -> int:
        """Those of the batch lane among them."""
        return sum(intake.pending for intake in self._intakes if intake.lane == routes.BATCH)

    async def pause(self) -> None:
        self._paused = True
        for intake in self._intakes:
            await intake.pause()

    async def resume(self) -> None:
        self._paused = False
        for intake in self._intakes:
            await intake.resume()

    async def end(self, grace_s: float) -> bool:
        """Take nothing new, give what runs `grace_s` to end, hand the rest back. True if nothing had to be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        ended = await asyncio.gather(*(intake.drain(grace_s) for intake in self._intakes))
        for intake in self._intakes:
            await intake.stop()
        return all(ended)

    async def _follow(self, slots: Slots) -> None:
        seen = -1
        while True:
            if self._models.version != seen and not self._paused:
                seen = self._models.version
                counts = [
                    entry.buckets.count for entry in self._models.all() if self._is_ours(entry.runtime, entry.pool)
                ]
                await self._grow(slots, max(counts, default=1))
            await asyncio.sleep(_LOOK_S)

    def _is_ours(self, runtime: str, pool: str) -> bool:
        return (runtime, pool) == (self._runtime, self._pool)

    async def _grow(self, slots: Slots, count: int) -> None:
        for bucket in range(self._buckets, count):
            for lane in routes.LANES:
                settings = IntakeSettings(
                    stream=routes.stream_infer(self._bus.region, self._runtime, lane),
                    consumer=routes.durable_worker(self._pool, bucket),
                    lane=lane,
                )
                intake = Intake(self._bus, settings, slots, self._handle)
                self._intakes.append(intake)
                await intake.start()
        if count > self._buckets:
            self._buckets = count
            log.info("buckets_pulled", pool=self._pool, buckets=count)
