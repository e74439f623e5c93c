"""HttpServer: uvicorn inside this process's own event loop, on a socket we bound ourselves or were handed."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any

import structlog
import uvicorn

from inferbus_gateway.draining import DrainingProtocol, DrainingServer
from inferbus_gateway.http.app import HttpDoor
from inferbus_gateway.settings import GatewaySettings

log = structlog.get_logger()


class HttpServer:
    """Serves the application until `stop`. `port` is known after `start`, also where the setting was 0."""

    def __init__(self, app: HttpDoor, settings: GatewaySettings) -> None:
        self._settings = settings
        config = uvicorn.Config(
            app,
            http=DrainingProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=settings.backlog,
            timeout_keep_alive=int(settings.keep_alive_s),
        )
        self._server = DrainingServer(config, drain_s=settings.drain_s, linger_s=settings.linger_s)
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken or not ours, or `listen_fd` is no listening socket.
        """
        listener = _listen(self._settings)
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http-server")
        log.info("http_listening", host=self._settings.host, port=self.port)

    async def stop(self) -> None:
        """Accept nothing more, let open requests finish for up to `drain_s`, cancel the rest."""
        if self._task is not None:
            self._server.server_state.draining = True
            self._server.should_exit = True
            await self._task

    @property
    def connections(self) -> list[Any]:
        """The protocols of the connections open now."""
        return list(self._server.server_state.connections)

    async def wait(self) -> None:
        """Wait until the server has ended; raises what ended it early."""
        if self._task is not None:
            await asyncio.shield(self._task)


def _listen(settings: GatewaySettings) -> socket.socket:
    if settings.listen_fd >= 0:
        listener = _inherited(settings.listen_fd)
    else:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=settings.backlog)
    listener.setblocking(False)
    # Accepted connections inherit both options. NODELAY is set here because asyncio (not uvloop) forgets it for
    # connections whose listener was made outside of it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        # A client that takes nothing, though its kernel answers, would otherwise keep its response and its buffers for
        # ever.
        timeout_ms = int(settings.slow_client_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listener


def _inherited(descriptor: int) -> socket.socket:
    """Take over the socket that whoever started us listens on; it outlives us, and so do connections that wait in it."""
    try:
        listener = socket.socket(fileno=descriptor)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as exc:
        raise OSError(exc.errno, f"listen_fd {descriptor} is no socket: {exc.strerror}") from exc
    if not listening:
        listener.close()
        raise OSError(errno.EINVAL, f"listen_fd {descriptor} is a socket nobody listens on")
    listener.set_inheritable(False)
    return listener
