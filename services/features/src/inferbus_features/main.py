"""Composition root of the features service."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.process import runtime
from inferbus.process.small_service import SmallService, open_service
from inferbus.settings import from_env
from inferbus_features.batches import Batcher
from inferbus_features.consumers import Consumers
from inferbus_features.known import KnownServices
from inferbus_features.metrics import ReadMetrics
from inferbus_features.paying import Paying, open_paying
from inferbus_features.ports import FeatureStore
from inferbus_features.push_usage import PushUsage
from inferbus_features.reads import ReadDoor
from inferbus_features.settings import READS, WRITES, FeaturesSettings
from inferbus_features.stores import open_store
from inferbus_features.usage import Asker, ReadUsage
from inferbus_features.writes_room import serving_writes
from inferbus_features.writing import WriteSettings


async def main(process: runtime.Runtime) -> None:
    settings = from_env(FeaturesSettings, "features")
    async with AsyncExitStack() as stack:
        state = Path(settings.state or stack.enter_context(tempfile.TemporaryDirectory(prefix="inferbus-features-")))
        service = await stack.enter_async_context(open_service(process, name=settings.process, role="features"))
        store = open_store(settings, state)
        stack.callback(store.close)
        known = KnownServices(service.bus, store)
        await known.start()
        stack.push_async_callback(known.stop)

        async def work() -> None:
            async with AsyncExitStack() as parts:
                stopping = asyncio.create_task(process.stopping.wait())
                loaded = asyncio.create_task(known.loaded.wait())
                await asyncio.wait({stopping, loaded}, return_when=asyncio.FIRST_COMPLETED)
                loaded.cancel()
                if loaded.done():
                    charging = await parts.enter_async_context(open_charging(service, process.incarnation))
                    consumers = Consumers(service.bus)
                    parts.push_async_callback(consumers.stop)
                    consumers.start()
                    if settings.role != WRITES:
                        reads = serving_reads(process, service, store, known, settings, consumers, charging)
                        await parts.enter_async_context(reads)
                    if settings.role != READS:
                        writes = serving_writes(
                            service.bus, store, consumers, service.registry, state, process.incarnation,
                            WriteSettings(), charging.paying, PushUsage(charging.log, charging.prices),
                        )  # fmt: skip
                        await parts.enter_async_context(writes)
                runtime.freeze_heap()
                await stopping

        def why_not_ready() -> str | None:
            return (known.why_not_ready or None) if service.bus.connected else "the bus is not reachable"

        await service.run(work, why_not_ready=why_not_ready)


class Charging(msgspec.Struct, frozen=True):
    """What reads and pushes are charged with."""

    log: UsageLog
    prices: PriceBook
    paying: Paying


@asynccontextmanager
async def open_charging(service: SmallService, me: str) -> AsyncIterator[Charging]:
    """Follow prices, keys and limits until the block ends."""
    prices, log = PriceBook(service.bus), UsageLog(service.bus, service.registry)
    async with AsyncExitStack() as stack:
        for part in (log, prices):
            await part.start()
            stack.push_async_callback(part.stop)
        yield Charging(log, prices, await stack.enter_async_context(open_paying(service.bus, prices, me)))


@asynccontextmanager
async def serving_reads(
    process: runtime.Runtime,
    service: SmallService,
    store: FeatureStore,
    known: KnownServices,
    settings: FeaturesSettings,
    consumers: Consumers,
    charging: Charging,
) -> AsyncIterator[None]:
    """Answer reads until the block ends."""
    bus, metrics = service.bus, ReadMetrics(service.registry)

    def noted(asker: Asker, requests: int, rows: int) -> None:
        consumers.read(asker.tenant, asker.service, requests, rows)

    usage = ReadUsage(charging.log, charging.prices, me=process.incarnation, now=known.now, noted=noted)
    usage.start()
    door = ReadDoor(bus, known, Batcher(store, metrics), usage, charging.paying, metrics, settings)
    await door.start()
    try:
        yield
    finally:
        await door.stop()
        await usage.stop()
