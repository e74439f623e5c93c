"""Composition root of the topology process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus.bus.refusals import RefusalCollector
from inferbus.contracts.presence import DRAINING, READY, STARTING, Presence
from inferbus.process import runtime
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import Topology


async def main(process: runtime.Runtime) -> None:
    telemetry = from_env(TelemetrySettings, "telemetry")
    settings = from_env(TopologySettings, "topology")
    logs.configure("topology", telemetry.log_level)
    bus = await Bus.connect(from_env(BusSettings, "bus"), name=settings.process)
    registry = CollectorRegistry()
    registry.register(RefusalCollector(bus.refusals))
    topology = Topology(bus, settings, registry)
    health = runtime.HealthServer(from_env(HealthSettings, "health"), topology.why_not_ready, registry)
    await health.start()

    def describe() -> Presence:
        return Presence(
            process=settings.process,
            role="topology",
            incarnation=process.incarnation,
            region=bus.region,
            state=DRAINING if process.stopping.is_set() else STARTING if topology.why_not_ready() else READY,
            pid=process.pid,
            health_port=health.port,
            every=2,
        )

    beacon = Beacon(bus, describe)
    await beacon.start()
    await listen_for_drain(bus, settings.process, process.stopping)
    try:
        await topology.run(process.stopping)
    finally:
        await beacon.stop()
        await health.stop()
        await bus.close()
