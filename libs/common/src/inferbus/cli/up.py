"""`inferbus up`, in the foreground and detached: checks first, then the supervisor, shown as it goes."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import typer
from rich.console import Console

from inferbus.cli.progress import Progress
from inferbus.local.crew import StartFailed
from inferbus.local.features import check_features
from inferbus.local.identities import DEV, users_folder
from inferbus.local.layout import Layout
from inferbus.local.lock import AlreadyRunning, Lock, holder_of
from inferbus.local.ports import PortTaken, check_free, listen
from inferbus.local.processes import Platform
from inferbus.local.secrets import load_secrets, provide_admin_key
from inferbus.local.serving import CannotServe, Served, UpOptions, served_models
from inferbus.local.state import FAILED, READY, PlatformState, read_state
from inferbus.local.supervisor import Supervisor
from inferbus.local.triton import served_by_triton

_TAIL_LINES = 15
_POLL_S = 0.1
_PORT_OPTION = "PORT=... (inferbus up --port)"


def preflight(layout: Layout, options: UpOptions) -> list[Served]:
    """Check what can be checked before anything is started.

    Raises:
        CannotServe: a model or an environment is missing.
        PortTaken: another program listens where the gateway or the bus would.
        AlreadyRunning: a platform has this state folder.
    """
    holder = holder_of(layout.lock)
    if holder is not None:
        raise AlreadyRunning(holder)
    served = served_models(options, layout) + served_by_triton(layout, options.triton)
    check_features(layout, options.features)
    if options.port:
        check_free(options.host, options.port, what="HTTP", option=_PORT_OPTION)
    if options.bus_port:
        check_free("127.0.0.1", options.bus_port, what="the bus", option="BUS_PORT=... (inferbus up --bus-port)")
    return served


def up_foreground(layout: Layout, options: UpOptions) -> int:
    """Run the platform until a signal says stop. Returns the exit status."""
    console = Console()
    try:
        layout.make_folders()
        served = preflight(layout, options)
        with Lock(layout.lock):
            return asyncio.run(_run(layout, options, served, console))
    except AlreadyRunning as exc:
        _fail(already_running(layout, exc))
    except (CannotServe, PortTaken, OSError, msgspec.DecodeError) as exc:
        _fail(str(exc))
    return 1


async def _run(layout: Layout, options: UpOptions, served: list[Served], console: Console) -> int:
    admin_key = provide_admin_key(layout)
    platform = Platform(layout=layout, secrets=load_secrets(layout), options=options)
    progress = Progress(console)
    listener = listen(options.host, options.port, what="HTTP", option=_PORT_OPTION)
    supervisor = Supervisor(platform, served, listener, progress.show)
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            supervisor.kill()
        else:
            typer.echo("\nstopping: open requests are finished first (again: stop at once)")
            stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)

    def on_ready() -> None:
        progress.__exit__(None, None, None)
        typer.echo(ready_text(supervisor.state, supervisor.dev_key, layout, admin_key))

    try:
        with progress:
            await supervisor.run(stopping, on_ready)
    except StartFailed as exc:
        _fail(str(exc))
        for process in supervisor.state.processes:
            if process.last_exit:
                print_tail(layout.log_of(process.name))
        return 1
    typer.echo("stopped")
    return 0


def up_detached(layout: Layout, options: UpOptions) -> int:
    """Start a supervisor that outlives this command, and wait until it is ready. Returns the exit status."""
    console = Console()
    try:
        layout.make_folders()
        preflight(layout, options)
    except AlreadyRunning as exc:
        _fail(already_running(layout, exc))
        return 1
    except (CannotServe, PortTaken, OSError, msgspec.DecodeError) as exc:
        _fail(str(exc))
        return 1
    admin_key = provide_admin_key(layout)
    with layout.supervisor_log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "inferbus.cli.main", "up", *_arguments(options)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with Progress(console) as progress:
        state = _wait(layout, supervisor, progress)
    if state is not None and state.state == READY:
        typer.echo(ready_text(state, layout.dev_key.read_text().strip(), layout, admin_key))
        return 0
    _fail(state.error if state is not None and state.error else "the platform did not start")
    print_tail(layout.supervisor_log)
    return 1


def _wait(layout: Layout, supervisor: subprocess.Popen[bytes], progress: Progress) -> PlatformState | None:
    try:
        while True:
            ended = supervisor.poll() is not None
            state = read_state(layout)
            if state is not None and state.pid == supervisor.pid:
                progress.show(state)
                if state.state in {READY, FAILED}:
                    break
            if ended:
                break
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        supervisor.terminate()
    if state is None or state.pid != supervisor.pid or state.state != READY:
        supervisor.wait()
    state = read_state(layout)
    return state if state is not None and state.pid == supervisor.pid else None


def _arguments(options: UpOptions) -> list[str]:
    switches = [("--embed", options.embed), ("--simulator", options.simulator), ("--vectors", options.vectors)]
    return [
        *("--port", str(options.port), "--bus-port", str(options.bus_port), "--host", options.host),
        *("--workers", str(options.workers), "--gateways", str(options.gateways), "--triton", str(options.triton)),
        *("--features", str(options.features)),
        *(("--model", options.model) if options.model else ()),
        *(("--embed-model", options.embed_model) if options.embed_model else ()),
        *(switch for switch, on in switches if on),
    ]


def already_running(layout: Layout, error: AlreadyRunning) -> str:
    """Say what runs and how to stop it."""
    state = read_state(layout)
    where = f" at {state.url}" if state is not None and state.url else ""
    return f"a platform is already running here{where} (process {error.pid}); `inferbus down` stops it"


def ready_text(state: PlatformState, dev_key: str, layout: Layout, admin_key: str | None = None) -> str:
    """Say that it is ready, where, and give a line to paste; the admin key only where it was made by this start."""
    question = {"role": "user", "content": "What does the threading module do?"}
    body = msgspec.json.encode({"model": state.models[0], "stream": True, "messages": [question]}).decode()
    headers = ["-H", f"Authorization: Bearer {dev_key}", "-H", "Content-Type: application/json"]
    curl = shlex.join(["curl", "-sN", f"{state.url}/v1/chat/completions", *headers, "-d", body])
    shown = _relative(layout.dev_key)
    return (
        f"\nInferbus is ready.\n\n"
        f"  address          {state.url}  (OpenAI: {state.url}/v1, documentation: {state.url}/docs)\n"
        f"  bus              {state.bus_url}  (tenant dev, seed in {_relative(users_folder(layout).seed_file(DEV))})\n"
        f"  development key  {dev_key}  (also in {shown})\n"
        f"{_admin_line(admin_key, layout)}"
        f"  models           {', '.join(state.models)}\n"
        f"  logs             {_relative(layout.logs)}/\n\n"
        f"{curl}\n"
    )


def _admin_line(admin_key: str | None, layout: Layout) -> str:
    if admin_key is None:
        return ""
    return f"  admin key        {admin_key}  (shown this once; also in {_relative(layout.admin_key)})\n"


def print_tail(log: Path) -> None:
    """Print the end of a log file."""
    if log.exists():
        lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        typer.echo("\n".join([f"--- the end of {_relative(log)}", *lines]), err=True)


def _relative(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _fail(message: str) -> None:
    typer.echo(f"inferbus: {message}", err=True)
