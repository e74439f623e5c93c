"""What is measured: the platform as `make up` runs it, and `vllm serve` with the same model and flags."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar

import msgspec

from inferbus.local.layout import Layout
from inferbus.local.ports import free_port
from inferbus.local.serving import is_cpu_build
from inferbus.local.state import READY, PlatformState, read_state
from inferbus_bench.places import LLM_BIN, PLATFORM_BIN, ROOT, TINY_WEIGHTS
from inferbus_bench.process import Process
from inferbus_llm_worker.domain.serve_args import default_argv, engine_env

_HOST = "127.0.0.1"
_START_S = 240.0
_POLL_S = 0.2
_TINY, _SIMULATOR = "inferbus-tiny", "simulator"
T = TypeVar("T")


class DidNotStart(Exception):
    """A target could not be brought up; the message has the end of its log."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Something that answers OpenAI requests. `roots`: its processes by role; CPU is counted for each with its tree."""

    name: str
    port: int
    key: str
    model: str
    roots: dict[str, int]


@asynccontextmanager
async def platform(
    folder: Path,
    *,
    simulator: bool,
    env: Mapping[str, str] | None = None,
    answers: bool = True,
    options: Sequence[str] = (),
) -> AsyncIterator[Target]:
    """Run `inferbus up` with its state in `folder`, on free ports; `env` has settings of its processes, `options` are
    further ones of `inferbus up`. `answers`: wait until it gave one.

    Raises:
        DidNotStart: it was not ready in time.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    argv = [str(PLATFORM_BIN / "inferbus"), "up", "--port", "0", "--bus-port", "0"]
    argv += [*(["--simulator"] if simulator else []), *options]
    env = _clean_env() | {"INFERBUS_HOME": str(home)} | dict(env or {})
    layout = Layout(root=ROOT, home=home)
    async with Process(argv, env=env, log=folder / "up.log", folder=ROOT) as process:
        state = await _until(process, lambda: _ready_state(layout, process.pid))
        target = Target(
            name="inferbus" + (" (simulator)" if simulator else ""),
            port=int(state.url.rsplit(":", 1)[1]),
            key=layout.dev_key.read_text().strip(),
            model=_SIMULATOR if simulator else _TINY,
            roots={_role(child.role): child.pid for child in state.processes},
        )
        if answers:
            await _until(process, lambda: _answers(target))
        yield target


@asynccontextmanager
async def bare_path(folder: Path) -> AsyncIterator[Target]:
    """Run the yardstick (see `bare_path`) on a bus of its own.

    Raises:
        DidNotStart: it did not answer in time.
    """
    folder.mkdir(parents=True)
    bus_port, port = free_port(_HOST), free_port(_HOST)
    url = f"nats://{_HOST}:{bus_port}"
    env = _clean_env() | {"PYTHONPATH": str(ROOT / "benchmarks")}
    python = [str(PLATFORM_BIN / "python"), "-m", "inferbus_bench.bare_path"]
    bus = [str(PLATFORM_BIN / "nats-server"), "-a", _HOST, "-p", str(bus_port), "-js", "-sd", str(folder / "jetstream")]
    async with AsyncExitStack() as stack:

        async def start(name: str, argv: list[str]) -> Process:
            return await stack.enter_async_context(Process(argv, env=env, log=folder / f"{name}.log", folder=ROOT))

        nats = await start("nats-server", bus)
        await _until(nats, lambda: _listens(bus_port))
        worker = await start("worker", [*python, "worker", url])
        gateway = await start("gateway", [*python, "gateway", url, str(port)])
        roots = {"gateway": gateway.pid, "worker": worker.pid, "nats-server": nats.pid}
        target = Target(name="bare path", port=port, key="none", model=_SIMULATOR, roots=roots)
        await _until(gateway, lambda: _answers(target))
        yield target


@asynccontextmanager
async def vllm_serve(folder: Path, *, extra: Sequence[str] = (), name: str = "vllm serve") -> AsyncIterator[Target]:
    """Run `vllm serve` with the model, flags and environment an LLM worker gives its engine, and `extra` flags.

    Raises:
        DidNotStart: it did not answer in time.
    """
    folder.mkdir(parents=True)
    cpu = is_cpu_build(Layout(root=ROOT, home=folder))
    flags = default_argv(str(TINY_WEIGHTS), _TINY, cpu=cpu, embed=False)
    port = free_port(_HOST)
    # The command `vllm` of the CPU build (0.32.0) cannot find its own version and ends; this is the server it runs.
    command = ["python", "-m", "vllm.entrypoints.openai.api_server"] if cpu else ["vllm", "serve"]
    argv = [str(LLM_BIN / command[0]), *command[1:], *flags, "--host", _HOST, "--port", str(port), *extra]
    env = _clean_env() | engine_env(flags, cpu=cpu, offline=True)
    async with Process(argv, env=env, log=folder / "vllm.log", folder=ROOT) as process:
        target = Target(name=name, port=port, key="none", model=_TINY, roots={"server": process.pid})
        await _until(process, lambda: _answers(target))
        yield target


def _clean_env() -> dict[str, str]:
    """Give our environment without what would change a target."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("INFERBUS_", "VLLM_"))}


def _role(role: str) -> str:
    return {"nats": "nats-server", "llm-worker": "worker"}.get(role, role)


def _ready_state(layout: Layout, supervisor: int) -> PlatformState | None:
    state = read_state(layout)
    return state if state is not None and state.pid == supervisor and state.state == READY else None


def _listens(port: int) -> bool | None:
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except OSError:
        return None
    return True


def _answers(target: Target) -> bool | None:
    """Ask for one token; None unless it came."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    connection = HTTPConnection(_HOST, target.port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return True if connection.getresponse().status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


async def _until(process: Process, ready: Callable[[], T | None]) -> T:
    give_up = time.monotonic() + _START_S
    while not process.ended and time.monotonic() < give_up:
        found = await asyncio.to_thread(ready)
        if found is not None:
            return found
        await asyncio.sleep(_POLL_S)
    raise DidNotStart(f"{'ended' if process.ended else 'not ready'}; the end of its log:\n{process.log_tail()}")
