"""Composition root of the ledger process."""

from __future__ import annotations

import asyncio

import msgspec

from inferbus.admission.quota.counters import Counters
from inferbus.bus.server_clock import ServerClock
from inferbus.ledger.reclaiming import Reclaiming
from inferbus.ledger.totaling import Totaling
from inferbus.process.runtime import Runtime
from inferbus.process.small_service import open_service
from inferbus.settings import from_env


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section LEDGER. `every_s`: how often it looks for new events, and so how old the totals may be, in seconds.
    `reclaim_every_s`: how often it looks for dead gateways, `reclaim_late_s`: how long it waits for the events of what they
    had asked for, once the last of that has left the bus."""

    process: str = "ledger-0"
    every_s: float = 1.0
    reclaim_every_s: float = 60.0
    reclaim_late_s: float = 600.0


async def main(process: Runtime) -> None:
    settings = from_env(LedgerSettings, "ledger")
    async with open_service(process, name=settings.process, role="ledger") as service:
        bus = service.bus
        totaling = Totaling(bus, name=process.incarnation, registry=service.registry, every_s=settings.every_s)
        reclaiming = Reclaiming(
            bus, name=process.incarnation, clock=ServerClock(), counters=Counters(bus), every_s=settings.reclaim_every_s,
            late_s=settings.reclaim_late_s,
        )  # fmt: skip
        giving_back = asyncio.create_task(reclaiming.run(), name="reclaiming")
        try:
            await service.run(
                lambda: totaling.run(process.stopping),
                why_not_ready=lambda: None if totaling.ready.is_set() else "not at the stream yet",
            )
        finally:
            giving_back.cancel()
