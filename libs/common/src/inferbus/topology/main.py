"""Composition root of the topology process."""

from __future__ import annotations

from inferbus.process.runtime import Runtime
from inferbus.process.small_service import open_service
from inferbus.settings import from_env
from inferbus.topology.configs import TopologySettings
from inferbus.topology.reconcile import Topology


async def main(process: Runtime) -> None:
    settings = from_env(TopologySettings, "topology")
    async with open_service(process, name=settings.process, role="topology") as service:
        topology = Topology(service.bus, settings, service.registry)
        await service.run(lambda: topology.run(process.stopping), why_not_ready=topology.why_not_ready)
