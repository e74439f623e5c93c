"""What a small service is but for its work: a connection, logs, health, metrics, presence, and being asked to go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from inferbus.bus import Bus
from inferbus.bus.refusals import RefusalCollector
from inferbus.contracts.presence import DRAINING, READY, STARTING, Presence
from inferbus.process.drain import listen_for_drain
from inferbus.process.presence import Beacon
from inferbus.process.runtime import HealthServer, Runtime
from inferbus.settings import BusSettings, HealthSettings, TelemetrySettings, from_env
from inferbus.telemetry import logs

_BEATS = 4  # of an ordinary process's: nobody waits for one of these to be missed


class SmallService:
    """One that serves no requests: `bus` and `registry` are for its work."""

    def __init__(self, process: Runtime, bus: Bus, *, name: str, role: str) -> None:
        self._process = process
        self._name = name
        self._role = role
        self.bus = bus
        self.registry = CollectorRegistry()
        self.registry.register(RefusalCollector(bus.refusals))

    async def run(self, work: Callable[[], Awaitable[None]], *, why_not_ready: Callable[[], str | None]) -> None:
        """Work until `work` ends, which is to watch the process's `stopping`. `why_not_ready` gives None when it is ready."""
        health = HealthServer(from_env(HealthSettings, "health"), why_not_ready, self.registry)
        await health.start()

        def describe() -> Presence:
            state = DRAINING if self._process.stopping.is_set() else STARTING if why_not_ready() else READY
            return Presence(
                process=self._name, role=self._role, incarnation=self._process.incarnation, region=self.bus.region,
                state=state, pid=self._process.pid, health_port=health.port, every=_BEATS,
            )  # fmt: skip

        beacon = Beacon(self.bus, describe)
        await beacon.start()
        await listen_for_drain(self.bus, self._name, self._process.stopping)
        try:
            await work()
        finally:
            await beacon.stop()
            await health.stop()


@asynccontextmanager
async def open_service(process: Runtime, *, name: str, role: str) -> AsyncIterator[SmallService]:
    """Connect; closed at the end.

    Raises:
        SettingsError: the environment says something impossible. DependencyDown: the bus cannot be reached.
    """
    logs.configure(name, from_env(TelemetrySettings, "telemetry").log_level)
    bus = await Bus.connect(from_env(BusSettings, "bus"), name=name)
    try:
        yield SmallService(process, bus, name=name, role=role)
    finally:
        await bus.close()
