"""Triton as a managed child: started with a deadline, watched, killed with everything it started, cleaned up after.

Its kinds of trouble are known: a model's process that cannot start makes the server wait for ever, one that died makes
its end last the whole exit timeout, and SIGKILL leaves shared memory behind. Whoever has this object decides when to
start again; `start` may be called after every `died`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from inferbus_triton_worker.adapters import leftovers
from inferbus_triton_worker.adapters.installation import (
    Ports,
    ServerMissing,
    command_line,
    environment_of,
    find_installation,
    lay_out,
)
from inferbus_triton_worker.adapters.kept import KeptProcess, spawn

log = structlog.get_logger()

_HOST = "127.0.0.1"
_ATTEMPTS = 3
_POLL_S, _ANSWER_S = 0.05, 1.0
_EXIT_TIMEOUT_S, _EXIT_MORE_S = 3, 3.0
_LOG_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 4096


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`environment` has the server and what models import, `repository` the models, `state` is this server's alone (links,
    log). `models` are loaded at the start, "*" being all. Times in seconds."""

    environment: Path
    repository: Path
    state: Path
    models: tuple[str, ...] = ("*",)
    cache_bytes: int = 16 * 1024 * 1024
    start_within_s: float = 120.0


class ServerFailed(Exception):
    """The server did not come up; the message has the end of its log."""


class ManagedServer:
    """One Triton process and its models' processes."""

    def __init__(self, options: ServerOptions, env: Mapping[str, str]) -> None:
        """`env` is passed on without what is ours."""
        self._options = msgspec.structs.replace(
            options, state=options.state.absolute(), repository=options.repository.absolute()
        )
        self._env = env
        self._prefix = leftovers.region_prefix(self._options.state)
        self._process: KeptProcess | None = None
        self._ports = Ports(grpc=0, http=0, metrics=0)
        self._stopping = False
        self._log_from = 0

    @property
    def address(self) -> str:
        """Where it answers gRPC: host:port."""
        return f"{_HOST}:{self._ports.grpc}"

    @property
    def http_address(self) -> str:
        return f"{_HOST}:{self._ports.http}"

    @property
    def metrics_address(self) -> str:
        return f"{_HOST}:{self._ports.metrics}"

    @property
    def pid(self) -> int:
        """The server's process; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        return self._options.state / "server.log"

    async def start(self) -> str:
        """Start it, with other ports than before, and wait until it answers. Returns its gRPC address.

        Raises:
            ServerMissing: the environment lacks something.
            ServerFailed: it ended, or did not answer in time. Nothing of it is left.
        """
        await self.stop()
        self._stopping = False
        began = time.monotonic()
        found = await find_installation(self._options.environment)
        if not self._options.repository.is_dir():
            raise ServerMissing(f"{self._options.repository} is no folder of models")
        self._options.state.mkdir(parents=True, exist_ok=True)
        lay_out(found, self._options.state)
        for attempt in range(1, _ATTEMPTS + 1):
            self._ports = _free_ports()
            argv = command_line(
                found,
                self._options.state,
                self._ports,
                repository=self._options.repository,
                models=self._options.models,
                cache_bytes=self._options.cache_bytes,
                region_prefix=self._prefix,
                exit_timeout_s=_EXIT_TIMEOUT_S,
            )
            try:
                await self._spawn(argv)
                await self._until_ready(began + self._options.start_within_s)
                break
            except BaseException as exc:
                await self._kill()
                if attempt == _ATTEMPTS or not isinstance(exc, _PortTaken):
                    raise
        log.info("triton_started", pid=self.pid, address=self.address, took_s=round(time.monotonic() - began, 2))
        return self.address

    async def stop(self) -> None:
        """End it: a few seconds to finish what runs, then SIGKILL. Nothing of it is left afterwards."""
        self._stopping = True
        process = self._process
        if process is not None:
            process.ask_to_end()
            try:
                await asyncio.wait_for(asyncio.shield(process.ended), _EXIT_TIMEOUT_S + _EXIT_MORE_S)
            except TimeoutError:
                log.warning("triton_killed", pid=process.pid)
            await self._kill()

    async def died(self) -> str:
        """Wait until it is gone without having been asked to; says how. What it left is removed by then."""
        process = self._process
        if process is None:
            return "it does not run"
        code = await asyncio.shield(process.ended)
        if self._stopping:
            await asyncio.Event().wait()  # asked to: whoever did knows
        await self._kill()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    # --- the process ----------------------------------------------------------------------------------------------

    async def _spawn(self, argv: list[str]) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        env = environment_of(self._options.environment, self._options.state, self._env)
        with self.log.open("ab") as output:
            self._log_from = output.tell()
            self._process = await spawn(argv, env, self._options.state, self._prefix, output)

    async def _until_ready(self, deadline: float) -> None:
        process = self._process
        assert process is not None  # noqa: S101  # for the type checker
        while True:
            if process.ended.done():
                text = self._tail()
                kind = _PortTaken if "already in use" in text.lower() else ServerFailed
                raise kind(f"Triton ended with status {process.ended.result()} while it started:\n{text}")
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"Triton did not answer within {self._options.start_within_s:g} s: a model's process may hang, or "
                    f"lack a library; see {self.log}\n{self._tail()}"
                )
            if await _is_ready(self._ports.http):
                return
            await asyncio.sleep(_POLL_S)

    async def _kill(self) -> None:
        """See that nothing of it is left."""
        process = self._process
        if process is not None:
            process.kill()
            await asyncio.shield(process.ended)
            if self._process is process:
                self._process = None

    def _tail(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._log_from, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
        return ""


class _PortTaken(ServerFailed):
    """Somebody took the port between our looking and the server's binding."""


def _free_ports() -> Ports:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind((_HOST, 0))
        grpc, http, metrics = (one.getsockname()[1] for one in sockets)
    return Ports(grpc=grpc, http=http, metrics=metrics)


async def _is_ready(port: int) -> bool:
    """Ask the server itself: it listens once the models of the start are loaded, or have failed to."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(_HOST, port)
            try:
                writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: triton\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
