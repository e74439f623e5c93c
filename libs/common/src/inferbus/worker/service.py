"""The composition of a worker: its main function but for the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.answers.attempts import Attempts
from inferbus.bus import Bus
from inferbus.bus.refusals import RefusalCollector
from inferbus.contracts.presence import STARTING, Presence
from inferbus.errands import Errands
from inferbus.facts import Facts
from inferbus.ledger.prices import PriceBook
from inferbus.ledger.usage_log import UsageLog
from inferbus.models import ModelRegistry
from inferbus.process import runtime
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus.telemetry.tracing import Tracing
from inferbus.topology.stream_check import StreamCheck, worker_needs
from inferbus.worker.billing import Billing
from inferbus.worker.direct import DirectDoor
from inferbus.worker.metrics import EngineCollector, WorkerMetrics
from inferbus.worker.ports import Engine
from inferbus.worker.queues import Queues
from inferbus.worker.serving import Serving
from inferbus.worker.settings import PoolSettings
from inferbus.worker.tenant_weights import TenantWeights
from inferbus.worker.worker import Worker


class Part(Protocol):
    """Something of a service's own that lives as long as its worker does."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Shared(msgspec.Struct, frozen=True):
    """What a worker has that a service's own parts may use."""

    bus: Bus
    models: ModelRegistry
    attempts: Attempts
    registry: CollectorRegistry


async def run_worker(
    process: runtime.Runtime,
    service: str,
    settings: PoolSettings,
    engine: Engine,
    *,
    own_parts: Callable[[Shared], Sequence[Part]] = lambda _: (),
) -> None:
    """Serve one pool with one engine until the process is asked to stop. `service` is its name in traces and facts;
    `own_parts` makes what the service has besides, which is started before the engine."""
    telemetry = from_env(TelemetrySettings, "telemetry")
    logs.configure(settings.process, telemetry.log_level)
    bus = await Bus.connect(from_env(BusSettings, "bus"), name=settings.process)
    tracing = Tracing(service, telemetry)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, settings.pool)
    presence = PresenceTable(bus, bus.region)
    attempts = Attempts(bus, presence, process=settings.process, incarnation=process.incarnation)
    errands = Errands()
    facts = Facts(bus, service, errands)
    usage_log, prices = UsageLog(bus, registry), PriceBook(bus)
    serving = Serving(
        bus, attempts, engine, tracing, metrics, old_message_s=settings.old_message_s, facts=facts,
        billing=Billing(usage_log, prices, model=settings.served_name),
    )  # fmt: skip
    models = ModelRegistry(bus)
    weights = TenantWeights(bus)
    direct = DirectDoor(
        bus, attempts, runtime=settings.runtime, pool=settings.pool, handle=serving.on_direct,
        on_refused=metrics.direct_refused.inc,
    )  # fmt: skip
    queues = Queues(
        bus, models, pool=settings.pool, runtime=settings.runtime, handle=serving.on_delivery,
        tenant_weights=weights.all, direct=direct,
    )  # fmt: skip

    async def known() -> None:
        await prices.loaded()
        await models.loaded()

    worker = Worker(bus, settings, engine, queues, metrics, known)
    registry.register(EngineCollector(settings.pool, worker.stats, lambda: queues.pending))
    registry.register(RefusalCollector(bus.refusals))
    streams = StreamCheck(bus, worker_needs(region=bus.region, runtime=settings.runtime, pool=settings.pool))
    health = runtime.HealthServer(
        from_env(HealthSettings, "health"), lambda: worker.why_not_ready() or streams.why_not_ready, registry
    )
    await health.start()
    about = Presence(
        process=settings.process,
        role="worker",
        incarnation=process.incarnation,
        region=bus.region,
        state=STARTING,
        pools=[settings.pool],
        pid=process.pid,
        health_port=health.port,
    )
    beacon = Beacon(bus, lambda: worker.describe(about))
    for part in (presence, attempts, models, weights, prices, usage_log, beacon, streams):
        await part.start()
    own = own_parts(Shared(bus, models, attempts, registry))
    for each in own:
        await each.start()
    await listen_for_drain(bus, settings.process, process.stopping)
    try:
        await worker.run(process.stopping)
    finally:
        for each in reversed(own):
            await each.stop()
        for ended in (streams, attempts, errands, usage_log, beacon, weights, models, prices, presence):
            await ended.stop()
        await health.stop()
        tracing.close()
        await bus.close()
