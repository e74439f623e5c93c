"""Composition root of the vector service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus.bus.refusals import RefusalCollector
from inferbus.contracts.presence import Presence
from inferbus.files.fsspec_storage import open_storage
from inferbus.files.settings import FilesSettings
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon
from inferbus.process.runtime import HealthServer, Runtime
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus.telemetry.tracing import Tracing
from inferbus_vectors.engines import start_engine
from inferbus_vectors.known import learn
from inferbus_vectors.readiness import Readiness
from inferbus_vectors.rooms import RoomsDeps, build_rooms
from inferbus_vectors.settings import VectorsSettings


async def main(process: Runtime) -> None:
    settings, telemetry = from_env(VectorsSettings, "vectors"), from_env(TelemetrySettings, "telemetry")
    bus_settings = from_env(BusSettings, "bus")
    logs.configure(settings.process, telemetry.log_level)
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(bus_settings, name=settings.process)
        stack.push_async_callback(bus.close)
        tracing = Tracing("vectors", telemetry)
        stack.callback(tracing.close)
        registry = CollectorRegistry()
        registry.register(RefusalCollector(bus.refusals))
        engine = await start_engine(settings)
        stack.push_async_callback(engine.index.stop)
        readiness = Readiness(bus, engine)
        health = HealthServer(from_env(HealthSettings, "health"), readiness.why_not, registry)
        await health.start()
        stack.push_async_callback(health.stop)
        await listen_for_drain(bus, settings.process, process.stopping)
        known = await learn(bus, bus_settings, stack, process=settings.process, tracing=tracing, registry=registry)
        storage = open_storage(from_env(FilesSettings, "files"))
        stack.push_async_callback(storage.close)
        deps = RoomsDeps(
            bus=bus, settings=settings, known=known, index=engine.index, storage=storage, tracing=tracing,
            registry=registry, me=process.incarnation,
        )  # fmt: skip
        rooms = await build_rooms(deps, stack)
        beacon = Beacon(bus, described(process, settings, health, readiness, deps, lambda: rooms.running))
        await beacon.start()
        stack.push_async_callback(beacon.stop)
        if await ready_or_stopping(engine.ready(), process.stopping):
            await rooms.open()
            readiness.opened = True
            await beacon.now()
            await process.stopping.wait()
            await rooms.close()


def described(
    process: Runtime, settings: VectorsSettings, health: HealthServer, readiness: Readiness, deps: RoomsDeps,
    running: Callable[[], int],
) -> Callable[[], Presence]:  # fmt: skip
    """Give what tells, whenever it is called, how this process stands."""
    return lambda: Presence(
        process=settings.process, role="vectors", incarnation=process.incarnation, region=deps.bus.region,
        state=readiness.state(stopping=process.stopping.is_set()), pid=process.pid, health_port=health.port,
        asker=deps.known.asker.id, in_flight=running(), slots=settings.messages,
    )  # fmt: skip


async def ready_or_stopping(ready: Awaitable[None], stopping: asyncio.Event) -> bool:
    """Wait for one of the two; says whether it is ready."""
    waiting, stop = asyncio.ensure_future(ready), asyncio.ensure_future(stopping.wait())
    await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, stop):
        task.cancel()
    await asyncio.gather(waiting, stop, return_exceptions=True)
    return not stopping.is_set()
