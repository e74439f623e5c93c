"""The crew of a platform: its processes, each kept alive, awaited, brought back, and ended in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from inferbus.contracts.presence import Presence
from inferbus.errors import DependencyDown
from inferbus.local import readiness
from inferbus.local.child import Child, Patience
from inferbus.local.identities import settings_of
from inferbus.local.layout import Layout
from inferbus.local.obituary import announce_death
from inferbus.local.processes import (
    BATCH,
    FEATURES,
    GATEWAY,
    LEDGER,
    NATS,
    TOPOLOGY,
    VECTORS,
    WORKERS,
    Platform,
    ProcessSpec,
)
from inferbus.local.state import READY, RESTARTING, ProcessState
from inferbus.settings import BusSettings, from_env

_HOST = "127.0.0.1"
_AGAIN_S = 0.2
# Gateways first, so that nothing new comes in while the workers finish what is open.
_STOP_ORDER = (GATEWAY, BATCH, VECTORS, *WORKERS, FEATURES, LEDGER, TOPOLOGY, NATS)


class StartFailed(Exception):
    """A process could not be brought up; the message names it and its log."""


class Crew:
    """`on_change` is called after every change of any process. `bus_port` is set by whoever started the bus."""

    def __init__(self, platform: Platform, on_change: Callable[[], None], patience: Patience | None = None) -> None:
        self._platform = platform
        self._layout: Layout = platform.layout
        self._on_change = on_change
        self._patience = patience
        self._waits: set[asyncio.Task[None]] = set()
        self.children: list[Child] = []
        self.bus_port = 0

    @property
    def states(self) -> list[ProcessState]:
        return [child.state for child in self.children]

    def named(self, name: str) -> Child | None:
        return next((child for child in self.children if child.spec.name == name), None)

    def bus_settings(self, role: str = "admin") -> BusSettings:
        """Say how to reach the bus in a role."""
        url = f"nats://{_HOST}:{self.bus_port}"
        return settings_of(self._layout, role, url=url, region=self._platform.region)

    def add(self, spec: ProcessSpec, *, in_place_of: Child | None = None) -> Child:
        """Start a process, or start one anew that was stopped."""
        child = Child(spec, self._layout.log_of(spec.name), self._on_child, self._patience, self._on_death)
        if in_place_of is None:
            self.children.append(child)
        else:
            self.children[self.children.index(in_place_of)] = child
        child.start()
        return child

    async def retire(self, child: Child) -> None:
        """Stop a process for good and forget it."""
        await child.stop()
        self.children.remove(child)
        self._on_change()

    async def until_ready(self, child: Child, timeout_s: float | None = None) -> None:
        """Wait until a process does its work.

        Raises:
            StartFailed: it does not start, or is not ready in time.
        """
        try:
            await asyncio.wait_for(self.unless_failed(child, self._ready(child)), timeout_s)
        except DependencyDown as exc:
            raise StartFailed(f"{child.spec.name} cannot be asked whether it is ready: {exc.message}") from exc
        except TimeoutError:
            raise StartFailed(f"{child.spec.name} was not ready within {timeout_s:g} s; see {child.log}") from None
        child.mark_ready()

    async def unless_failed(self, child: Child, waiting: Coroutine[Any, Any, Any]) -> Any:
        """Wait for something a process must do.

        Raises:
            StartFailed: it was given up meanwhile.
        """
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

    async def beats(self) -> dict[str, Presence]:
        """Say who lives on the bus; nobody while it is away."""
        try:
            return await readiness.beats(self.bus_settings())
        except DependencyDown:
            return {}

    async def stop(self) -> None:
        """End everything, the bus last."""
        for task in list(self._waits):
            task.cancel()
        for role in _STOP_ORDER:
            await asyncio.gather(*(child.stop() for child in self.children if child.spec.role == role))

    def kill(self) -> None:
        """Stop being patient: kill everything now."""
        for child in self.children:
            child.kill()

    async def _ready(self, child: Child) -> None:
        if child.spec.role == NATS:
            await readiness.listening(_HOST, self.bus_port)
        else:
            await readiness.present(self.bus_settings(), child.spec.name, lambda: child.state.pid)

    def _on_child(self, child: Child) -> None:
        if child.was_ready and child.state.state == RESTARTING and child.state.pid:
            self._later(self._back(child))
        self._on_change()

    async def _on_death(self, spec: ProcessSpec, incarnation: str) -> None:
        await announce_death(lambda _: from_env(BusSettings, "bus", spec.env), spec, incarnation)

    async def _back(self, child: Child) -> None:
        pid = child.state.pid
        while child.state.pid == pid and child.state.state != READY:
            try:
                await self._ready(child)
            except DependencyDown:
                await asyncio.sleep(_AGAIN_S)  # the bus is away as well
                continue
            if child.state.pid == pid:
                child.mark_ready()
            return

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)
