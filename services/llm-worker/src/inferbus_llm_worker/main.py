"""Composition root of the LLM worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from inferbus import runtime
from inferbus.attempts import Attempts
from inferbus.bus import Bus
from inferbus.contracts.presence import STARTING, Presence
from inferbus.presence import Beacon, PresenceTable
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus.telemetry.tracing import Tracing
from inferbus_llm_worker.engines import make_engine
from inferbus_llm_worker.metrics import EngineCollector, WorkerMetrics
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
    serving = Serving(bus, attempts, engine, tracing, metrics, old_message_s=settings.old_message_s)
    worker = Worker(bus, settings, engine, serving, metrics)
    registry.register(EngineCollector(settings.pool, worker.stats, lambda: worker.pending))
    health = runtime.HealthServer(from_env(HealthSettings, "health"), worker.why_not_ready, registry)
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
    await presence.start()
    await attempts.start()
    await beacon.start()
    try:
        await worker.run(process.stopping)
    finally:
        await attempts.stop()
        await beacon.stop()
        await presence.stop()
        await health.stop()
        tracing.close()
        await bus.close()
