"""Runtime of a service process: event loop, signals, and a small HTTP server for health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry, generate_latest

from inferbus.codec import to_json
from inferbus.settings import INCARNATION, HealthSettings

_YOUNG_OBJECTS = 10_000
_MANY_FILES = 1 << 20
_TICK_S, _ACCEPTED_S = 1.0, 0.05
log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Runtime:
    """What every process has: an incarnation (new at every start) and the event that asks it to stop."""

    def __init__(self) -> None:
        # From the supervisor that started this very process, who can then tell of its death; not for its children.
        self.incarnation = os.environ.pop(INCARNATION, "") or secrets.token_hex(6)
        self.pid = os.getpid()
        self.stopping = asyncio.Event()


def run(main: Callable[[Runtime], Awaitable[None]]) -> None:
    """Run `main` on uvloop; the first SIGINT or SIGTERM sets `stopping`, the second ends the process at once.

    It may open as many files as the system lets it: every connection is one, and the usual soft limit is 1,024.
    """
    _raise_descriptors()

    async def with_signals() -> None:
        runtime = Runtime()
        loop = asyncio.get_running_loop()
        signalled = (
            asyncio.Event()
        )  # not `stopping`: who was asked over the bus to drain may also be sent its first signal

        def on_signal(number: int) -> None:
            if signalled.is_set():
                log.warning("stopped_hard", signal=signal.Signals(number).name)
                os._exit(128 + number)
            log.info("stopping", signal=signal.Signals(number).name)
            signalled.set()
            runtime.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, number)
        await main(runtime)

    uvloop.run(with_signals())


def _raise_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _MANY_FILES) if hard == resource.RLIM_INFINITY else hard
    if soft != wanted:
        with contextlib.suppress(OSError, ValueError):  # the system has a bound of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def freeze_heap() -> None:
    """Call when everything is up: the garbage collector then leaves alone what exists by now.

    Walking it took a sixth of the CPU of a streamed token; beside vLLM (630,000 objects) one full pass stops a worker
    for up to a second, which its askers may take for its death. May be called again after an engine was replaced.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


class QuietServer(uvicorn.Server):
    """uvicorn inside our loop: the process handles signals, not the server, and startup failures raise.

    It looks once a second what time it is, for the Date header; uvicorn's own looks ten times whether it should exit.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        self._exit = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        return self._exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._exit.set()
        else:
            self._exit.clear()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._exit.wait()
        await asyncio.sleep(_ACCEPTED_S)  # asyncio loses a connection accepted in the tick that closes the listener

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class HealthServer:
    """Serves /health/live, /health/ready and /metrics. `port` is known after `start`."""

    def __init__(self, settings: HealthSettings, ready: Callable[[], str | None], registry: CollectorRegistry) -> None:
        """`ready` gives None when ready, else the reason why not."""
        self._settings = settings
        self._ready = ready
        self._registry = registry
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken or not ours.
        """
        listener = socket.create_server((self._settings.host, self._settings.port))
        self.port = listener.getsockname()[1]
        # uvicorn takes a bound method for an ASGI 2 application unless told otherwise.
        config = uvicorn.Config(
            self._app, interface="asgi3", log_config=None, access_log=False, lifespan="off", server_header=False
        )
        self._server = QuietServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="health-server")

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    async def _app(self, scope: Scope, _receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/health/live":
            await _answer(send, 200, b'{"status":"live"}', b"application/json")
        elif path == "/health/ready":
            why = self._ready()
            body = {"status": "ready"} if why is None else {"status": "not_ready", "reason": why}
            await _answer(send, 200 if why is None else 503, to_json(body), b"application/json")
        elif path == "/metrics":
            await _answer(send, 200, generate_latest(self._registry), b"text/plain; version=0.0.4")
        else:
            await _answer(send, 404, b'{"status":"not_found"}', b"application/json")


async def _answer(send: Send, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
