"""Queues: the intakes of one pool, one per lane and bucket, all sharing the engine's slots.

How many buckets there are is said in `models` and followed while the worker runs. A bucket that is no longer used is
still pulled until the restart: it may hold work. Several buckets take turns at the slots (`inferbus.queue.turns`); a single
one pulls for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import zip_longest

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.models import DIRECT, ModelEntry
from inferbus.models import ModelRegistry
from inferbus.queue.buckets import weights_of
from inferbus.queue.intake import Handler, Intake, IntakeSettings
from inferbus.queue.slots import Slots
from inferbus.queue.turns import Turns
from inferbus.ticks import until_tick
from inferbus.worker.direct import DirectDoor

_LOOK_S = 0.5
_NO_WEIGHTS: Mapping[str, int] = {}
log = structlog.get_logger()


class Queues:
    """Begins with bucket 0, so that a registry that is late delays nothing.

    `tenant_weights` gives weights of tenants from elsewhere (entitlements); another mapping when they have changed.
    """

    def __init__(
        self,
        bus: Bus,
        models: ModelRegistry,
        *,
        pool: str,
        runtime: str,
        handle: Handler,
        tenant_weights: Callable[[], Mapping[str, int]] | None = None,
        direct: DirectDoor | None = None,
    ) -> None:
        self._bus = bus
        self._models = models
        self._pool = pool
        self._runtime = runtime
        self._handle = handle
        self._tenant_weights = tenant_weights or (lambda: _NO_WEIGHTS)
        self._intakes: list[Intake] = []
        self._direct = direct
        self._turns: dict[str, Turns] = {}
        self._buckets = 0
        self._paused = False
        self._slots: Slots | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, slots: int, *, reserve: int | None = None) -> None:
        """Begin to pull for `slots` requests at once; batches never hold the last `reserve` of them."""
        self._slots = Slots(slots, reserve=reserve)
        await self._grow(self._slots, 1)
        self._task = asyncio.create_task(self._follow(self._slots), name="queues-follow")

    @property
    def slots(self) -> int:
        return self._slots.total if self._slots is not None else 0

    @property
    def running(self) -> int:
        """Requests that are here; of a group, its rows that have not ended."""
        direct = self._direct.running if self._direct is not None else 0
        return sum(intake.held for intake in self._intakes) + direct

    @property
    def _doors(self) -> list[Intake | DirectDoor]:
        return [*self._intakes, self._direct] if self._direct is not None else list(self._intakes)

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
        self._begin_no_row()
        for door in self._doors:
            await door.pause()

    async def resume(self) -> None:
        self._paused = False
        if self._slots is not None:
            self._slots.reopen()
        for door in self._doors:
            await door.resume()

    async def end(self, grace_s: float) -> bool:
        """Take nothing new, give what runs `grace_s` to end, hand the rest back. True if nothing had to be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._begin_no_row()
        ended = await asyncio.gather(*(door.drain(grace_s) for door in self._doors))
        for door in self._doors:
            await door.stop()
        for turns in self._turns.values():
            turns.close()
        return all(ended)

    def _begin_no_row(self) -> None:
        """Have rows that lie here without a slot go back: others may have room for them."""
        if self._slots is not None:
            self._slots.turn_away()

    async def _follow(self, slots: Slots) -> None:
        seen, seen_weights = -1, _NO_WEIGHTS
        while True:
            weights = self._tenant_weights()
            if (self._models.version != seen or weights is not seen_weights) and not self._paused:
                seen, seen_weights = self._models.version, weights
                entries = [entry for entry in self._models.all() if self._is_ours(entry)]
                await self._grow(slots, max((entry.buckets.count for entry in entries), default=1))
                self._weigh(entries, weights)
                if self._direct is not None and any(entry.delivery == DIRECT for entry in entries):
                    await self._direct.open(slots)
            await asyncio.sleep(until_tick(_LOOK_S))

    def _is_ours(self, entry: ModelEntry) -> bool:
        return (entry.runtime, entry.pool) == (self._runtime, self._pool)

    def _weigh(self, entries: list[ModelEntry], tenants: Mapping[str, int]) -> None:
        """Give every bucket the greatest weight that an entry of the pool gives it."""
        weights = [max(each) for each in zip_longest(*(weights_of(e.buckets, tenants) for e in entries), fillvalue=1)]
        for turns in self._turns.values():
            turns.weigh(weights)

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
        if count > 1:
            self._take_turns(slots)
        if count > self._buckets:
            self._buckets = count
            log.info("buckets_pulled", pool=self._pool, buckets=count)

    def _take_turns(self, slots: Slots) -> None:
        """Have the intakes that do not yet take turns in their lane do so, bucket by bucket."""
        for lane in routes.LANES:
            if lane not in self._turns:
                self._turns[lane] = Turns(slots, lane)
            turns = self._turns[lane]
            lane_intakes = [intake for intake in self._intakes if intake.lane == lane]
            for intake in lane_intakes[len(turns) :]:
                intake.join(turns)
