"""Composition root of the ledger process."""

from __future__ import annotations

import asyncio

import msgspec
from prometheus_client import CollectorRegistry

from inferbus.admission.quota.clock import ServerClock
from inferbus.admission.quota.counters import Counters
from inferbus.bus import Bus
from inferbus.contracts.presence import DRAINING, READY, STARTING, Presence
from inferbus.ledger.reclaiming import Reclaiming
from inferbus.ledger.totaling import Totaling
from inferbus.process import runtime
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section LEDGER. `every_s`: how often it looks for new events, and so how old the totals may be, in seconds.
    `reclaim_every_s`: how often it looks for dead gateways, `reclaim_late_s`: how long it waits for the events of what they
    had asked for, once the last of that has left the bus."""

    process: str = "ledger-0"
    every_s: float = 1.0
    reclaim_every_s: float = 60.0
    reclaim_late_s: float = 600.0


async def main(process: runtime.Runtime) -> None:
    telemetry = from_env(TelemetrySettings, "telemetry")
    settings = from_env(LedgerSettings, "ledger")
    logs.configure(settings.process, telemetry.log_level)
    bus = await Bus.connect(from_env(BusSettings, "bus"), name=settings.process)
    registry = CollectorRegistry()
    totaling = Totaling(bus, name=process.incarnation, registry=registry, every_s=settings.every_s)
    reclaiming = Reclaiming(
        bus, name=process.incarnation, clock=ServerClock(bus), counters=Counters(bus), every_s=settings.reclaim_every_s,
        late_s=settings.reclaim_late_s,
    )  # fmt: skip
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
    giving_back = asyncio.create_task(reclaiming.run(), name="reclaiming")
    try:
        await totaling.run(process.stopping)
    finally:
        giving_back.cancel()
        await beacon.stop()
        await health.stop()
        await bus.close()
