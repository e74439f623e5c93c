"""Composition root of the ledger process."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus.contracts.presence import DRAINING, READY, STARTING, Presence
from inferbus.ledger.totaling import Totaling
from inferbus.process import runtime
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section LEDGER. `every_s`: how often it looks for new events, and so how old the totals may be, in seconds."""

    process: str = "ledger-0"
    every_s: float = 1.0


async def main(process: runtime.Runtime) -> None:
    telemetry = from_env(TelemetrySettings, "telemetry")
    settings = from_env(LedgerSettings, "ledger")
    logs.configure(settings.process, telemetry.log_level)
    bus = await Bus.connect(from_env(BusSettings, "bus"), name=settings.process)
    registry = CollectorRegistry()
    totaling = Totaling(bus, name=process.incarnation, registry=registry, every_s=settings.every_s)
    health = runtime.HealthServer(
        from_env(HealthSettings, "health"),
        lambda: None if totaling.ready.is_set() else "not at the stream yet",
        registry,
    )
    await health.start()

    def describe() -> Presence:
        return Presence(
            process=settings.process,
            role="ledger",
            incarnation=process.incarnation,
            region=bus.region,
            state=DRAINING if process.stopping.is_set() else READY if totaling.ready.is_set() else STARTING,
            pid=process.pid,
            health_port=health.port,
            every=2,
        )

    beacon = Beacon(bus, describe)
    await beacon.start()
    await listen_for_drain(bus, settings.process, process.stopping)
    try:
        await totaling.run(process.stopping)
    finally:
        await beacon.stop()
        await health.stop()
        await bus.close()
