"""Composition root of the batch service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus.bus.refusals import RefusalCollector
from inferbus.contracts.presence import DRAINING, READY, STARTING, Presence
from inferbus.files.fsspec_storage import open_storage
from inferbus.files.settings import FilesSettings
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon
from inferbus.process.runtime import HealthServer, Runtime
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus.telemetry.tracing import Tracing
from inferbus_batch.fail_points import FailPoints
from inferbus_batch.jobs_view import JobsView
from inferbus_batch.keeper import Keeper
from inferbus_batch.metrics import BatchMetrics
from inferbus_batch.retention import keep_purging
from inferbus_batch.room import RoomDeps
from inferbus_batch.settings import BatchSettings

_IDLE_BEATS = 4  # of an ordinary process's: nobody waits for one of these to be missed


async def main(process: Runtime) -> None:
    settings, telemetry = from_env(BatchSettings, "batch"), from_env(TelemetrySettings, "telemetry")
    bus_settings = from_env(BusSettings, "bus")
    logs.configure(settings.process, telemetry.log_level)
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(bus_settings, name=settings.process)
        stack.push_async_callback(bus.close)
        tracing = Tracing("batch", telemetry)
        stack.callback(tracing.close)
        storage = open_storage(from_env(FilesSettings, "files"))
        stack.push_async_callback(storage.close)
        registry = CollectorRegistry()
        registry.register(RefusalCollector(bus.refusals))
        jobs = JobsView(bus)
        keeper = Keeper(
            RoomDeps(
                settings=settings, bus_settings=bus_settings, jobs=jobs, storage=storage, metrics=BatchMetrics(registry),
                tracing=tracing, fail_points=FailPoints(settings.fail_point, settings.fail_after), registry=registry,
                me=process.incarnation,
            ),
            process.stopping,
        )  # fmt: skip

        def why_not_ready() -> str | None:
            if not bus.connected:
                return "the bus is not reachable"
            return None if jobs.ready else "the jobs are not loaded yet"

        health = HealthServer(from_env(HealthSettings, "health"), why_not_ready, registry)
        await health.start()
        stack.push_async_callback(health.stop)

        def describe() -> Presence:
            state = DRAINING if process.stopping.is_set() else STARTING if why_not_ready() else READY
            room = keeper.room
            return Presence(
                process=settings.process, role="batch", incarnation=process.incarnation, region=bus.region, state=state,
                pid=process.pid, health_port=health.port, asker=room.asker if room is not None else "",
                in_flight=room.in_flight if room is not None else 0, every=1 if room is not None else _IDLE_BEATS,
            )  # fmt: skip

        beacon, beats = Beacon(bus, describe), set[asyncio.Task[None]]()

        def beat_now() -> None:
            task = asyncio.create_task(beacon.now())
            beats.add(task)
            task.add_done_callback(beats.discard)

        await jobs.start()
        stack.push_async_callback(jobs.stop)
        await beacon.start()
        stack.push_async_callback(beacon.stop)
        await listen_for_drain(bus, settings.process, process.stopping)
        purging = asyncio.create_task(keep_purging(bus, storage, every_s=settings.purge_every_s), name="purging")
        stack.callback(purging.cancel)
        await keeper.run(beat_now)
