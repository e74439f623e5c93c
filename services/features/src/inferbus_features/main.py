"""Composition root of the features service."""

from __future__ import annotations

from inferbus.process import runtime
from inferbus.process.small_service import open_service
from inferbus.settings import from_env
from inferbus_features.settings import FeaturesSettings


async def main(process: runtime.Runtime) -> None:
    settings = from_env(FeaturesSettings, "features")
    async with open_service(process, name=settings.process, role="features") as service:

        async def work() -> None:
            await process.stopping.wait()

        await service.run(work, why_not_ready=lambda: None if service.bus.connected else "the bus is not reachable")
