"""Worker: engine, intakes and presence as one thing with a life: starting, ready, engine down, draining."""

from __future__ import annotations

import asyncio

import structlog

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.presence import DRAINING, ENGINE_DOWN, READY, STARTING, EngineStats, Presence
from inferbus.intake import Intake, IntakeSettings
from inferbus.runtime import freeze_heap
from inferbus.slots import Slots
from inferbus_llm_worker.metrics import WorkerMetrics
from inferbus_llm_worker.ports import Engine
from inferbus_llm_worker.serving import Serving
from inferbus_llm_worker.settings import WorkerSettings

_RESTART_PAUSE_S = 1.0
_MAX_RESTART_PAUSE_S = 30.0
log = structlog.get_logger()


class Worker:
    """Feeds the engine from the pool's queues and starts it anew when it dies."""

    def __init__(
        self, bus: Bus, settings: WorkerSettings, engine: Engine, serving: Serving, metrics: WorkerMetrics
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._engine = engine
        self._serving = serving
        self._metrics = metrics
        self._intakes: list[Intake] = []
        self._slots: Slots | None = None
        self._restarts = 0
        self.state = STARTING

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set; then finish what runs, within the grace period."""
        stop = asyncio.create_task(stopping.wait())
        try:
            if not await _first_of(self._engine.start(), stop):
                return
            freeze_heap()
            await self._start_intakes()
            self.state = READY
            log.info("worker_ready", engine=self._engine.name, pool=self._settings.pool, slots=self._engine.slots)
            while await _first_of(self._until_dead(), stop):
                if not await _first_of(self._restart(), stop):
                    break
        finally:
            stop.cancel()
            await self._end()

    def why_not_ready(self) -> str | None:
        return (
            None if self.state == READY and self._bus.connected else self.state if self._bus.connected else "bus down"
        )

    @property
    def in_flight(self) -> int:
        return sum(intake.running for intake in self._intakes)

    @property
    def pending(self) -> int:
        return sum(intake.pending for intake in self._intakes)

    def stats(self) -> EngineStats:
        return self._engine.stats() if self.state in (READY, DRAINING) else EngineStats(restarts=self._restarts)

    def describe(self, presence: Presence) -> Presence:
        """Fill in what changes from beat to beat."""
        return Presence(
            process=presence.process,
            role=presence.role,
            incarnation=presence.incarnation,
            region=presence.region,
            pid=presence.pid,
            health_port=presence.health_port,
            pools=presence.pools,
            state=self.state,
            in_flight=self.in_flight,
            slots=self._slots.total if self._slots is not None else 0,
            pending=self.pending,
            engine=self.stats(),
        )

    async def _start_intakes(self) -> None:
        self._slots = Slots(self._engine.slots)
        settings = self._settings
        for lane in routes.LANES:
            stream = routes.stream_infer(self._bus.region, settings.runtime, lane)
            for bucket in range(settings.buckets):
                consumer = routes.durable_worker(settings.pool, bucket)
                intake_settings = IntakeSettings(stream=stream, consumer=consumer, lane=lane)
                self._intakes.append(Intake(self._bus, intake_settings, self._slots, self._serving.on_delivery))
        for intake in self._intakes:
            await intake.start()

    async def _until_dead(self) -> None:
        why = await self._engine.died()
        log.error("engine_died", engine=self._engine.name, why=why, in_flight=self.in_flight)
        self.state = ENGINE_DOWN
        for intake in self._intakes:
            await intake.pause()

    async def _restart(self) -> None:
        """Start the engine again, with growing pauses while it does not come up."""
        pause_s = _RESTART_PAUSE_S
        while True:
            try:
                await self._engine.stop()
                await self._engine.start()
            except Exception:
                log.exception("engine_restart_failed", next_try_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_RESTART_PAUSE_S, pause_s * 2)
                continue
            break
        freeze_heap()
        self._restarts += 1
        self._metrics.restarts.set(self._restarts)
        for intake in self._intakes:
            await intake.resume()
        self.state = READY
        log.info("engine_restarted", engine=self._engine.name, restarts=self._restarts)

    async def _end(self) -> None:
        self.state = DRAINING
        grace_s = self._settings.drain_grace_s
        ended = await asyncio.gather(*(intake.drain(grace_s) for intake in self._intakes))
        if not all(ended):
            log.warning("drain_incomplete", handed_back=self.in_flight)
        for intake in self._intakes:
            await intake.stop()
        await self._engine.stop()


async def _first_of(work: object, stop: asyncio.Task[bool]) -> bool:
    """Run `work` unless `stop` comes first; says whether the work was done."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]  # a coroutine
    done, _ = await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
        return not stop.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return False
