"""The supervisor: starts the processes in order, keeps them alive, restarts them on request, drains them in reverse.

    start: nats -> topology -> key and models -> workers, gateways, ledger, batch, vectors and features
    stop:  gateways -> batch -> vectors -> workers -> features -> ledger -> topology -> nats

It holds the socket that gateways serve: while one of them is replaced, connections wait in it instead of being refused.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from inferbus.bus import Bus
from inferbus.bus_users.template import BadTemplate
from inferbus.errors import DependencyDown
from inferbus.local import identities, provision, readiness
from inferbus.local.bus_reload import ReloadFailed, reload_bus
from inferbus.local.child import Patience
from inferbus.local.command_socket import Command, CommandFailed, CommandSocket, Reload
from inferbus.local.crew import Crew, StartFailed
from inferbus.local.features import features_specs
from inferbus.local.processes import (
    Platform,
    ProcessSpec,
    batch_spec,
    gateway_spec,
    ledger_spec,
    nats_spec,
    topology_spec,
    vectors_spec,
    worker_specs,
)
from inferbus.local.rolling import RestartFailed, Rolling
from inferbus.local.serving import Served
from inferbus.local.state import FAILED, READY, STARTING, STOPPED, STOPPING, PlatformState, read_state, write_state
from inferbus.local.triton import triton_specs

_BUS_START_S = 30.0
_TOPOLOGY_START_S = 60.0


class Supervisor:
    """Runs one platform on a listening socket. `on_change` hears of every change of its state, which is also in
    `run/state.json`."""

    def __init__(
        self,
        platform: Platform,
        served: list[Served],
        listener: socket.socket,
        on_change: Callable[[PlatformState], None],
        patience: Patience | None = None,
    ) -> None:
        self._platform = platform
        self._layout = platform.layout
        self._served = served
        self._listener = listener
        self._on_change = on_change
        self._crew = Crew(platform, self._on_crew, patience)
        self._rolling = Rolling(self._crew)
        self._commands = CommandSocket(self._layout.commands, self._on_command)
        former = read_state(self._layout)
        self._applied_before = former.applied if former else []
        self._state = PlatformState(
            pid=os.getpid(),
            started=time.time(),
            region=platform.region,
            models=[entry.name for one in served for entry in one.entries],
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
                await self._commands.start()
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
        self._crew.kill()

    # --- up -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await self._start_bus()
        bus_url = self._state.bus_url
        topology = self._crew.add(topology_spec(self._platform, bus_url=bus_url))
        await self._crew.until_ready(topology, _TOPOLOGY_START_S)
        await self._provision()
        host, port = self._platform.options.host, self._listener.getsockname()[1]
        self._change(url=f"http://{_in_url(host)}:{port}")
        serving = [spec for served in self._served for spec in self._specs_of(served)]
        serving += [
            gateway_spec(
                self._platform, bus_url=bus_url, port=port, name=f"gateway-{n}", listen_fd=self._listener.fileno()
            )
            for n in range(self._platform.options.gateways)
        ]
        serving += [spec(self._platform, bus_url=bus_url) for spec in (ledger_spec, batch_spec)]
        if self._platform.options.vectors:
            serving.append(vectors_spec(self._platform, bus_url=bus_url))
        serving += features_specs(self._platform, bus_url=bus_url)
        await asyncio.gather(*(self._crew.until_ready(child) for child in [self._crew.add(spec) for spec in serving]))

    def _specs_of(self, served: Served) -> list[ProcessSpec]:
        specs = triton_specs if served.entry.runtime == "triton" else worker_specs
        return specs(self._platform, served, bus_url=self._state.bus_url)

    async def _start_bus(self) -> None:
        crew = self._crew
        try:
            identities.provide_bus_users(self._layout, self._served, self._platform.region)
        except (BadTemplate, msgspec.DecodeError, OSError) as exc:
            raise StartFailed(f"the users of the bus: {exc}") from exc
        for stale in self._layout.ports.glob("*.ports"):
            stale.unlink()
        nats = crew.add(nats_spec(self._platform, port=self._platform.options.bus_port or -1))
        waiting = readiness.bus_port(self._layout.ports, lambda: nats.state.pid)
        try:
            crew.bus_port = await asyncio.wait_for(crew.unless_failed(nats, waiting), _BUS_START_S)
        except TimeoutError:
            raise StartFailed(f"the bus did not start within {_BUS_START_S:g} s; see {nats.log}") from None
        nats.respec(nats_spec(self._platform, port=crew.bus_port))  # a restart comes back where its clients look
        self._change(bus_url=crew.bus_settings().url)
        nats.mark_ready(crew.bus_port)

    async def _provision(self) -> None:
        bus = await Bus.connect(self._crew.bus_settings(), name="inferbus-up")
        try:
            self.dev_key = await provision.provide_dev_key(bus, self._layout, self._platform.secrets)
            entries = [entry for one in self._served for entry in one.entries]
            await provision.provide_models(bus, entries, self._applied_before)
        except DependencyDown as exc:
            raise StartFailed(f"keys and models could not be written: {exc.message}") from exc
        finally:
            await bus.close()
        self._change(applied=[entry.name for entry in entries])

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

    async def _on_command(self, command: Command, say: Callable[[str], None]) -> None:
        try:
            if isinstance(command, Reload):
                await reload_bus(self._crew, self._layout)
                return
            await self._rolling.restart(command.names, say)
        except (RestartFailed, ReloadFailed) as exc:
            raise CommandFailed(str(exc)) from exc

    def _on_crew(self) -> None:
        self._change(processes=self._crew.states)

    def _change(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        write_state(self._layout, self._state)
        self._on_change(self._state)

    # --- down -----------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        if self._state.state in {STARTING, READY}:
            self._change(state=STOPPING)
        await self._commands.stop()
        self._listener.close()  # with the gateways' own, which are closed first of all: then connections are refused
        await self._crew.stop()
        if self._state.state == STOPPING:
            self._change(state=STOPPED)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
