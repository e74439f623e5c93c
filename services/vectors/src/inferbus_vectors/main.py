"""Composition root of the vector service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
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
from inferbus_vectors.adapters.bm25 import Bm25Encoder
from inferbus_vectors.adapters.bus_embedder import BusEmbedder
from inferbus_vectors.bills import Bills
from inferbus_vectors.engines import start_engine
from inferbus_vectors.indexing import Outside, open_indexing
from inferbus_vectors.known import learn
from inferbus_vectors.search_room import SearchRoom, SearchRoomDeps, may_live
from inferbus_vectors.settings import VectorsSettings
from inferbus_vectors.sweeping import sweep_for_ever
from inferbus_vectors.watching.room import WatchRoom, WatchRoomDeps


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
        opened = asyncio.Event()

        def why_not_ready() -> str | None:
            if not bus.connected:
                return "the bus is not reachable"
            return engine.why_not_ready() or (
                None if opened.is_set() else "keys, models or collections are not loaded yet"
            )

        health = HealthServer(from_env(HealthSettings, "health"), why_not_ready, registry)
        await health.start()
        stack.push_async_callback(health.stop)
        await listen_for_drain(bus, settings.process, process.stopping)
        known = await learn(bus, bus_settings, stack, process=settings.process, tracing=tracing, registry=registry)

        def describe() -> Presence:
            state = DRAINING if process.stopping.is_set() else STARTING if why_not_ready() else READY
            return Presence(
                process=settings.process, role="vectors", incarnation=process.incarnation, region=bus.region, state=state,
                pid=process.pid, health_port=health.port, asker=known.asker.id,
                in_flight=intake.running + room.running,
                slots=settings.messages,
            )  # fmt: skip

        outside = Outside(engine.index, BusEmbedder(known.admission, known.payers), Bm25Encoder())
        bills = Bills(known.usage, process.incarnation)
        watching = WatchRoom(
            WatchRoomDeps(
                bus=bus, view=known.view, index=outside.index, embedder=outside.embedder, payers=known.payers,
                registry=registry, drain_s=settings.drain_s,
            )
        )  # fmt: skip
        await watching.learn()
        intake = open_indexing(bus, known, outside, bills, settings, stack, registry, watching.matcher)
        storage = open_storage(from_env(FilesSettings, "files"))
        stack.push_async_callback(storage.close)
        room = SearchRoom(
            SearchRoomDeps(
                bus=bus, settings=settings, view=known.view, index=outside.index, embedder=outside.embedder,
                sparse=outside.sparse, admission=known.admission, models=known.models, payers=known.payers, bills=bills,
                storage=storage, tracing=tracing, registry=registry, me=process.incarnation,
                may_live=lambda owner: may_live(known.presence, owner),
            )
        )  # fmt: skip
        beacon = Beacon(bus, describe)
        await beacon.start()
        stack.push_async_callback(beacon.stop)
        if await ready_or_stopping(engine.ready(), process.stopping):
            await intake.start()
            await room.open()
            await watching.open()
            sweeping = asyncio.create_task(sweep_for_ever(engine.index, settings), name="sweeping")
            stack.callback(sweeping.cancel)
            opened.set()
            await beacon.now()
            await process.stopping.wait()
            await room.close()
            await watching.close()
            await intake.drain(settings.drain_s)


async def ready_or_stopping(ready: Awaitable[None], stopping: asyncio.Event) -> bool:
    """Wait for one of the two; says whether it is ready."""
    waiting, stop = asyncio.ensure_future(ready), asyncio.ensure_future(stopping.wait())
    await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, stop):
        task.cancel()
    await asyncio.gather(waiting, stop, return_exceptions=True)
    return not stopping.is_set()
