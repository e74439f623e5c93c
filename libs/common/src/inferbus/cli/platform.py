"""`inferbus up | down | restart | drain | status | logs`: the platform of this folder."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from typing import Annotated

import msgspec
import typer

from inferbus.cli import logs as log_files
from inferbus.cli.drain import drain_process
from inferbus.cli.restart import restart_processes
from inferbus.cli.status import platform_status, print_status
from inferbus.cli.up import up_detached, up_foreground
from inferbus.local.layout import find_layout
from inferbus.local.lock import holder_of
from inferbus.local.serving import UpOptions
from inferbus.local.state import STOPPED

_DOWN_S = 120.0
_NOT_RUNNING = 3


def register(app: typer.Typer) -> None:
    """Add the commands at the top level."""
    app.command()(up)
    app.command()(down)
    app.command()(restart)
    app.command()(drain)
    app.command()(status)
    app.command()(logs)


def up(
    model: Annotated[
        str, typer.Option("--model", help="A Hugging Face id or a folder; default: the built-in inferbus-tiny.")
    ] = "",
    host: Annotated[str, typer.Option("--host", help="Where the gateway listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="HTTP; 0 = any free one.")] = 8080,
    bus_port: Annotated[int, typer.Option("--bus-port", min=0, max=65535, help="Bus; 0 = any free one.")] = 4222,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Workers of the chat model.")] = 1,
    gateways: Annotated[int, typer.Option("--gateways", min=1, max=64, help="Gateways on the HTTP port.")] = 1,
    triton: Annotated[
        int, typer.Option("--triton", min=0, max=64, help="Workers of classic models, each with a Triton server.")
    ] = 0,
    features: Annotated[
        int,
        typer.Option("--features", min=0, max=64, help="Processes that read features; from two on, one more writes."),
    ] = 0,
    embed_model: Annotated[
        str, typer.Option("--embed-model", help="One more embedding model: a folder, or inferbus-tiny.")
    ] = "",
    *,
    embed: Annotated[bool, typer.Option("--embed", help="Serve all-minilm-l6-v2 as well.")] = False,
    vectors: Annotated[bool, typer.Option("--vectors", help="Run the vector service: search over documents.")] = False,
    simulator: Annotated[
        bool, typer.Option("--simulator", help="No engine: made-up words, for measuring and tests.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it is ready; `inferbus down` stops it.")
    ] = False,
) -> None:
    """Start the platform: bus, topology, gateway and workers. Ctrl-C drains and stops everything."""
    options = UpOptions(
        model=model, embed=embed, host=host, port=port, bus_port=bus_port, simulator=simulator, workers=workers,
        gateways=gateways, triton=triton, vectors=vectors, features=features, embed_model=embed_model,
    )  # fmt: skip
    layout = find_layout()
    raise typer.Exit(up_detached(layout, options) if detach else up_foreground(layout, options))


def down() -> None:
    """Stop the platform of this folder: open requests are finished first."""
    layout = find_layout()
    supervisor = holder_of(layout.lock)
    if not supervisor:
        typer.echo("no platform is running here")
        return
    typer.echo(f"stopping (process {supervisor}) ...")
    try:
        handle = os.pidfd_open(supervisor)  # the process itself, not whoever gets its number later
    except ProcessLookupError:
        typer.echo("stopped")
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        ended = select.select([handle], [], [], _DOWN_S)[0]
    finally:
        os.close(handle)
    if not ended:
        typer.echo(f"still running after {_DOWN_S:g} s; `kill -9 {supervisor}` ends it and all it started", err=True)
        raise typer.Exit(1)
    typer.echo("stopped")


def restart(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PROCESS]...", help="As `inferbus status` names them.")
    ] = None,
    *,
    rolling: Annotated[bool, typer.Option("--rolling", help="All of them, one after the other.")] = False,
) -> None:
    """Restart processes of this folder's platform so that no request fails: each is drained, or relieved first."""
    if bool(names) == rolling:
        raise typer.BadParameter("name processes, or say --rolling for all of them")
    raise typer.Exit(asyncio.run(restart_processes(find_layout(), names or [])))


def drain(
    process: Annotated[str, typer.Argument(help="A process on the bus, here or elsewhere (`inferbus status`).")],
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.0, help="Seconds to wait; it goes on draining afterwards.")
    ] = 120.0,
) -> None:
    """Have a process take nothing new, finish or hand over what it has, and end. Exit status 0 when it is gone."""
    raise typer.Exit(asyncio.run(drain_process(process, timeout_s)))


def status(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show every process: role, state, pid, port, requests in flight. Exit status 3 if nothing runs."""
    found = asyncio.run(platform_status(find_layout()))
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        print_status(found)
    if found.state == STOPPED:
        raise typer.Exit(_NOT_RUNNING)


def logs(
    service: Annotated[str, typer.Argument(help="A process or role (gateway, llm-0, nats ...); default: all.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines to begin with.")] = 50,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
) -> None:
    """Print the services' logs."""
    layout = find_layout()
    try:
        for line in log_files.read(layout, service, lines=lines, follow=follow):
            typer.echo(line)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
