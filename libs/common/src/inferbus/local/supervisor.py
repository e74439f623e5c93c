"""The supervisor: starts the processes in order, keeps them alive, drains them in reverse.

    start: nats -> topology -> key and models -> workers and gateway        stop: gateway -> workers -> topology -> nats

The gateway stops first so that nothing new comes in while the workers finish what is open.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from inferbus.bus import Bus
from inferbus.errors import DependencyDown
from inferbus.local import provision, readiness
from inferbus.local.child import Child, Patience
from inferbus.local.ports import free_port
from inferbus.local.processes import (
    GATEWAY,
    NATS,
    WORKER,
    Platform,
    ProcessSpec,
    gateway_spec,
    nats_spec,
    topology_spec,
    worker_specs,
)
from inferbus.local.serving import Served
from inferbus.local.state import (
    FAILED,
    READY,
    RESTARTING,
    STARTING,
    STOPPED,
    STOPPING,
    PlatformState,
    read_state,
    write_state,
)
from inferbus.settings import BusSettings

_HOST = "127.0.0.1"
_BUS_START_S = 30.0
_TOPOLOGY_START_S = 60.0


class StartFailed(Exception):
    """A process could not be brought up; the message names it and its log."""


class Supervisor:
    """Runs one platform. `on_change` hears of every change of its state, which is also in `run/state.json`."""

    def __init__(
        self,
        platform: Platform,
        served: list[Served],
        on_change: Callable[[PlatformState], None],
        patience: Patience | None = None,
    ) -> None:
        self._platform = platform
        self._layout = platform.layout
        self._served = served
        self._on_change = on_change
        self._patience = patience
        self._children: list[Child] = []
        self._waits: set[asyncio.Task[None]] = set()
        self._bus_port = 0
        former = read_state(self._layout)
        self._applied_before = former.applied if former else []
        self._state = PlatformState(
            pid=os.getpid(), started=time.time(), region=platform.region, models=[one.entry.name for one in served]
        )
        self.dev_key = ""

    @property
    def state(self) -> PlatformState:
        return self._state

    async def run(self, stopping: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Bring everything up, keep it up until `stopping` is set, and take it down again.

        Raises:
            StartFailed: something could not be brought up. Everything is stopped by then.
        """
        stop = asyncio.create_task(stopping.wait())
        try:
            if await self._unless(stop, self._start()):
                self._change(state=READY)
                on_ready()
                await stop
        except StartFailed as exc:
            self._change(state=FAILED, error=str(exc))
            raise
        finally:
            stop.cancel()
            await self._stop()

    def kill(self) -> None:
        """Stop being patient: kill everything now."""
        for child in self._children:
            child.kill()

    # --- up -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await self._start_bus()
        topology = self._add(topology_spec(self._platform, bus_url=self._state.bus_url))
        await self._until_ready(topology, _TOPOLOGY_START_S)
        await self._provision()
        port = self._platform.options.port or free_port(self._platform.options.host)
        self._change(url=f"http://{_in_url(self._platform.options.host)}:{port}")
        for served in self._served:
            for spec in worker_specs(self._platform, served, bus_url=self._state.bus_url):
                self._add(spec)
        self._add(gateway_spec(self._platform, bus_url=self._state.bus_url, port=port))
        await asyncio.gather(*(self._until_ready(child) for child in self._children if child.state.state != READY))

    async def _start_bus(self) -> None:
        for stale in self._layout.ports.glob("*.ports"):
            stale.unlink()
        nats = self._add(nats_spec(self._platform, port=self._platform.options.bus_port or -1))
        waiting = readiness.bus_port(self._layout.ports, lambda: nats.state.pid)
        try:
            self._bus_port = await asyncio.wait_for(self._unless_failed(nats, waiting), _BUS_START_S)
        except TimeoutError:
            raise StartFailed(f"the bus did not start within {_BUS_START_S:g} s; see {nats.log}") from None
        nats.respec(nats_spec(self._platform, port=self._bus_port))  # a restart comes back where its clients look
        self._change(bus_url=f"nats://{_HOST}:{self._bus_port}")
        nats.mark_ready(self._bus_port)

    async def _provision(self) -> None:
        bus = await Bus.connect(self._bus_settings(), name="inferbus-up")
        try:
            self.dev_key = await provision.provide_dev_key(bus, self._layout, self._platform.secrets)
            entries = [one.entry for one in self._served]
            await provision.provide_models(bus, entries, self._applied_before)
        except DependencyDown as exc:
            raise StartFailed(f"keys and models could not be written: {exc.message}") from exc
        finally:
            await bus.close()
        self._change(applied=[entry.name for entry in entries])

    def _add(self, spec: ProcessSpec) -> Child:
        child = Child(spec, self._layout.log_of(spec.name), self._on_child, self._patience)
        self._children.append(child)
        child.start()
        return child

    async def _until_ready(self, child: Child, timeout_s: float | None = None) -> None:
        try:
            await asyncio.wait_for(self._unless_failed(child, self._ready(child)), timeout_s)
        except DependencyDown as exc:
            raise StartFailed(f"{child.spec.name} cannot be asked whether it is ready: {exc.message}") from exc
        except TimeoutError:
            raise StartFailed(f"{child.spec.name} was not ready within {timeout_s:g} s; see {child.log}") from None
        child.mark_ready()

    async def _ready(self, child: Child) -> None:
        if child.spec.role == NATS:
            await readiness.listening(_HOST, self._bus_port)
            return
        await readiness.present(self._bus_settings(), [child.spec.name], lambda _: None)
        if child.spec.role == GATEWAY:
            await readiness.answering(self._platform.options.host, child.spec.port)

    def _bus_settings(self) -> BusSettings:
        password = self._platform.secrets.passwords["admin"]
        return BusSettings(url=self._state.bus_url, user="admin", password=password, region=self._platform.region)

    async def _unless_failed(self, child: Child, waiting: Coroutine[Any, Any, Any]) -> Any:
        failed = asyncio.create_task(child.failed.wait())
        ready = asyncio.create_task(waiting)
        try:
            await asyncio.wait({failed, ready}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise StartFailed(f"{child.spec.name} does not start ({child.state.last_exit}); see {child.log}")
            return await ready
        finally:
            failed.cancel()
            ready.cancel()
            await asyncio.gather(failed, ready, return_exceptions=True)

    async def _unless(self, stop: asyncio.Task[Any], work: Coroutine[Any, Any, None]) -> bool:
        """Do `work` unless told to stop meanwhile; says whether it was finished."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({stop, task}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            await task
            return True
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- changes --------------------------------------------------------------------------------------------------

    def _on_child(self, child: Child) -> None:
        if child.was_ready and child.state.state == RESTARTING and child.state.pid:
            self._later(self._back(child))
        self._change(processes=[one.state for one in self._children])

    async def _back(self, child: Child) -> None:
        pid = child.state.pid
        while child.state.pid == pid:
            try:
                await self._ready(child)
            except DependencyDown:
                continue  # the bus is away as well; connecting again takes its time
            if child.state.pid == pid:
                child.mark_ready()
            return

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    def _change(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        write_state(self._layout, self._state)
        self._on_change(self._state)

    # --- down -----------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        if self._state.state in {STARTING, READY}:
            self._change(state=STOPPING)
        for task in list(self._waits):
            task.cancel()
        by_role: dict[str, list[Child]] = {}
        for child in self._children:
            by_role.setdefault(child.spec.role, []).append(child)
        first = [GATEWAY, WORKER]
        rest = [role for role in reversed(by_role) if role not in first]
        for role in [*first, *rest]:
            await asyncio.gather(*(child.stop() for child in by_role.get(role, [])))
        if self._state.state == STOPPING:
            self._change(state=STOPPED)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
