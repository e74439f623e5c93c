"""Composition root of the LLM worker."""

from __future__ import annotations

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
from inferbus_llm_worker.billing import Billing
from inferbus_llm_worker.engines import make_engine
from inferbus_llm_worker.metrics import EngineCollector, WorkerMetrics
from inferbus_llm_worker.queues import Queues
from inferbus_llm_worker.serving import Serving
from inferbus_llm_worker.settings import WorkerSettings
from inferbus_llm_worker.worker import Worker


async def main(process: runtime.Runtime) -> None:
    telemetry = from_env(TelemetrySettings, "telemetry")
    settings = from_env(WorkerSettings, "llm_worker")
    logs.configure(settings.process, telemetry.log_level)
    bus = await Bus.connect(from_env(BusSettings, "bus"), name=settings.process)
    tracing = Tracing("llm-worker", telemetry)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, settings.pool)
    presence = PresenceTable(bus, bus.region)
    attempts = Attempts(bus, presence, process=settings.process, incarnation=process.incarnation)
    engine = make_engine(settings)
    errands = Errands()
    facts = Facts(bus, "llm-worker", errands)
    usage_log, prices = UsageLog(bus, registry), PriceBook(bus)
    serving = Serving(
        bus, attempts, engine, tracing, metrics, old_message_s=settings.old_message_s, facts=facts,
        billing=Billing(usage_log, prices, model=settings.served_name),
    )  # fmt: skip
    models = ModelRegistry(bus)
    queues = Queues(bus, models, pool=settings.pool, runtime=settings.runtime, handle=serving.on_delivery)
    worker = Worker(bus, settings, engine, queues, metrics, prices.loaded)
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
    for part in (presence, attempts, models, prices, usage_log, beacon, streams):
        await part.start()
    await listen_for_drain(bus, settings.process, process.stopping)
    try:
        await worker.run(process.stopping)
    finally:
        for ended in (streams, attempts, errands, usage_log, beacon, models, prices, presence):
            await ended.stop()
        await health.stop()
        tracing.close()
        await bus.close()
