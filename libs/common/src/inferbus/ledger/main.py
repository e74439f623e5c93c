"""Composition root of the ledger process."""

from __future__ import annotations

import msgspec

from inferbus.ledger.totaling import Totaling
from inferbus.process.runtime import Runtime
from inferbus.process.small_service import open_service
from inferbus.settings import from_env


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section LEDGER. `every_s`: how often it looks for new events, and so how old the totals may be, in seconds."""

    process: str = "ledger-0"
    every_s: float = 1.0


async def main(process: Runtime) -> None:
    settings = from_env(LedgerSettings, "ledger")
    async with open_service(process, name=settings.process, role="ledger") as service:
        totaling = Totaling(service.bus, name=process.incarnation, registry=service.registry, every_s=settings.every_s)
        await service.run(
            lambda: totaling.run(process.stopping),
            why_not_ready=lambda: None if totaling.ready.is_set() else "not at the stream yet",
        )
