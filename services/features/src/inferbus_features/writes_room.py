"""What a process that writes does besides: pushes, windows, materialisations, operations. Started and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.features import REGISTRY_KEY
from inferbus_features.consumers import Consumers
from inferbus_features.domain.rows import SourceShape, shapes_of
from inferbus_features.job_book import FeatureJobBook
from inferbus_features.jobs_keeper import JobsKeeper, OpenJobs
from inferbus_features.managing import Managing
from inferbus_features.operations import OPERATORS, Operations
from inferbus_features.paying import Paying
from inferbus_features.ports import FeatureStore
from inferbus_features.push_usage import PushUsage
from inferbus_features.windows_keeper import WindowsKeeper
from inferbus_features.writing import PushWriter, WriteMetrics, WriteSettings


class Shapes:
    """The sources of a store's catalogue, worked out when it changes."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._revision: str | None = None
        self._shapes: dict[str, SourceShape] = {}

    def __call__(self) -> Mapping[str, SourceShape]:
        catalogue = self._store.catalogue
        if catalogue.revision != self._revision:
            self._shapes, self._revision = shapes_of(catalogue), catalogue.revision
        return self._shapes


@asynccontextmanager
async def serving_writes(
    bus: Bus, store: FeatureStore, consumers: Consumers, registry: CollectorRegistry, state: Path, me: str,
    settings: WriteSettings, paying: Paying, usage: PushUsage,
) -> AsyncIterator[None]:  # fmt: skip
    """Write what is pushed, follow windows, do materialisations and answer operations until the block ends."""

    async def stored_registry() -> bytes | None:
        return await bus.kv_get(routes.KV_FEATURES, REGISTRY_KEY)

    shapes, book, jobs = Shapes(store), FeatureJobBook(bus), OpenJobs(bus)
    writer = PushWriter(bus, store, shapes, consumers.wrote, WriteMetrics(registry), paying, usage, settings)
    managing = Managing(bus, Operations(bus, store, shapes, consumers, settings.limits, paying).verbs, OPERATORS)
    windows = WindowsKeeper(
        book, state, lambda: store.catalogue, stored_registry, consumers.wrote, me=me, metrics=registry
    )  # fmt: skip
    keeper, stopping = JobsKeeper(book, jobs, state, stored_registry, me), asyncio.Event()
    await jobs.start()
    await writer.start()
    await managing.start()
    tasks = [
        asyncio.create_task(work.run(stopping), name=type(work).__name__) for work in (windows, keeper)
    ]  # fmt: skip
    try:
        yield
    finally:
        stopping.set()
        await managing.stop()
        await writer.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await jobs.stop()
