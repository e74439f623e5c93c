"""`inferbus status`: what the supervisor knows, merged with one round of presence beats."""

from __future__ import annotations

import asyncio

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from inferbus.bus import Bus
from inferbus.cli.connection import admin_settings
from inferbus.cli.progress import age_of
from inferbus.contracts.presence import Presence
from inferbus.errors import DependencyDown
from inferbus.local.layout import Layout
from inferbus.local.lock import holder_of
from inferbus.local.state import READY, STOPPED, PlatformState, ProcessState, read_state
from inferbus.process.presence import PresenceTable

_PIPE_WIDTH = 200
_ROUND_S = 2.2  # the slowest beat every two seconds


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process. `in_flight` and `slots` count requests (None: it has none to count), `port` is what it serves,
    `health_port` where /health and /metrics are, `pending` what waits in its pools' queues."""

    name: str
    role: str
    state: str
    pid: int
    port: int
    health_port: int
    in_flight: int | None
    slots: int | None
    pending: int | None
    pools: list[str]
    restarts: int
    started: float


class PlatformStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The platform of one state folder; `supervisor` is a process id, 0 if none runs."""

    state: str
    supervisor: int = 0
    url: str = ""
    bus_url: str = ""
    models: list[str] = []
    processes: list[ProcessStatus] = []


async def platform_status(layout: Layout) -> PlatformStatus:
    """Ask the supervisor's file, the lock and the bus. A bus that does not answer leaves the figures out."""
    supervisor, state = holder_of(layout.lock), read_state(layout)
    if supervisor is None or state is None:
        return PlatformStatus(state=STOPPED)
    beats = await _beats(layout, state)
    known = {process.name for process in state.processes}
    elsewhere = [  # started by hand or on another machine, on the same bus
        ProcessState(name=name, role=beat.role, state=READY, pid=beat.pid)
        for name, beat in sorted(beats.items())
        if name not in known
    ]
    processes = [_merged(process, beats.get(process.name)) for process in [*state.processes, *elsewhere]]
    return PlatformStatus(
        state=state.state,
        supervisor=supervisor,
        url=state.url,
        bus_url=state.bus_url,
        models=state.models,
        processes=processes,
    )


async def _beats(layout: Layout, state: PlatformState) -> dict[str, Presence]:
    if not state.bus_url:
        return {}
    try:
        bus = await Bus.connect(admin_settings(layout, state.bus_url, state.region), name="inferbus-status")
    except DependencyDown:
        return {}
    table = PresenceTable(bus, state.region)
    try:
        await table.start()
        await asyncio.sleep(_ROUND_S)
        return table.alive()
    finally:
        await table.stop()
        await bus.close()


def _merged(process: ProcessState, beat: Presence | None) -> ProcessStatus:
    counts = beat is not None and (beat.slots > 0 or process.role == "gateway")
    return ProcessStatus(
        name=process.name,
        role=process.role,
        state=beat.state if beat is not None and process.state == READY else process.state,
        pid=process.pid,
        port=process.port or (beat.health_port if beat is not None else 0),
        health_port=beat.health_port if beat is not None else 0,
        in_flight=beat.in_flight if beat is not None and counts else None,
        slots=beat.slots if beat is not None and beat.slots else None,
        pending=beat.pending if beat is not None and beat.slots else None,
        pools=beat.pools if beat is not None else [],
        restarts=process.restarts,
        started=process.started,
    )


def _table(status: PlatformStatus) -> Table:
    table = Table(
        "process",
        "role",
        "state",
        "pid",
        "port",
        "in flight",
        "waiting",
        "restarts",
        "up",
        box=None,
        header_style="bold",
    )
    for process in status.processes:
        table.add_row(
            process.name,
            process.role,
            process.state,
            str(process.pid or "-"),
            str(process.port or "-"),
            _of(process.in_flight, process.slots),
            "-" if process.pending is None else str(process.pending),
            str(process.restarts),
            age_of(process.started) if process.started and process.pid else "-",
        )
    return table


def _of(in_flight: int | None, slots: int | None) -> str:
    if in_flight is None:
        return "-"
    return f"{in_flight} of {slots}" if slots else str(in_flight)


def print_status(status: PlatformStatus) -> None:
    """Print the status for people."""
    if not status.processes:
        typer.echo(f"platform: {status.state}")
        return
    models = ", ".join(status.models)
    typer.echo(f"platform: {status.state}   {status.url}   bus {status.bus_url}   models: {models}")
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH  # a pipe has no width: cut nothing
    console.print(_table(status))
