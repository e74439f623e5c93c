"""Worker: engine, queues and presence as one thing with a life: starting, ready, engine down, draining."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from inferbus.bus import Bus
from inferbus.contracts.presence import DRAINING, ENGINE_DOWN, READY, STARTING, EngineStats, Presence
from inferbus.process.runtime import freeze_heap
from inferbus.worker.metrics import WorkerMetrics
from inferbus.worker.ports import Engine
from inferbus.worker.queues import Queues
from inferbus.worker.settings import PoolSettings

_RESTART_PAUSE_S = 1.0
_MAX_RESTART_PAUSE_S = 30.0
log = structlog.get_logger()


class Worker:
    """Feeds the engine from the pool's queues and starts it anew when it dies."""

    def __init__(
        self,
        bus: Bus,
        settings: PoolSettings,
        engine: Engine,
        queues: Queues,
        metrics: WorkerMetrics,
        loaded: Callable[[], Awaitable[None]],
    ) -> None:
        """`loaded` waits for what must be known before the first request, such as prices."""
        self._bus = bus
        self._settings = settings
        self._engine = engine
        self._queues = queues
        self._metrics = metrics
        self._loaded = loaded
        self._restarts = 0
        self.state = STARTING

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set; then finish what runs, within the grace period."""
        stop = asyncio.create_task(stopping.wait())
        try:
            if not await _first_of(self._engine.start(), stop) or not await _first_of(self._loaded(), stop):
                return
            freeze_heap()
            reserve = self._settings.batch_reserve
            await self._queues.start(self._engine.slots, reserve=reserve if reserve >= 0 else None)
            self.state = READY
            log.info("worker_ready", engine=self._engine.name, pool=self._settings.pool, slots=self._engine.slots)
            while await _first_of(self._until_dead(), stop):
                if not await _first_of(self._restart(), stop):
                    break
        finally:
            stop.cancel()
            await self._end()

    def why_not_ready(self) -> str | None:
        if not self._bus.connected:
            return "the bus is not reachable"
        return None if self.state == READY else self.state

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
            in_flight=self._queues.running,
            slots=self._queues.slots,
            pending=self._queues.pending,
            engine=self.stats(),
            pending_batch=self._queues.pending_batch,
        )

    async def _until_dead(self) -> None:
        why = await self._engine.died()
        log.error("engine_died", engine=self._engine.name, why=why, in_flight=self._queues.running)
        self.state = ENGINE_DOWN
        await self._queues.pause()

    async def _restart(self) -> None:
        """Start the engine again, with growing pauses while it does not come up."""
        pause_s = _RESTART_PAUSE_S
        while True:
            try:
                await self._engine.stop()
                await self._engine.start()
            except Exception:  # whatever keeps an engine from starting may pass; without the loop the worker is lost
                log.exception("engine_restart_failed", next_try_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_RESTART_PAUSE_S, pause_s * 2)
                continue
            break
        freeze_heap()
        self._restarts += 1
        self._metrics.restarts.set(self._restarts)
        await self._queues.resume()
        self.state = READY
        log.info("engine_restarted", engine=self._engine.name, restarts=self._restarts)

    async def _end(self) -> None:
        self.state = DRAINING
        if not await self._queues.end(self._settings.drain_grace_s):
            log.warning("drain_incomplete", grace_s=self._settings.drain_grace_s)
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
