"""Draining: an HTTP server that is about to end cuts nobody off.

HTTP/1.1 has no word for "this connection is about to close" but the header of an answer. So what is answered from now on
says `Connection: close`, and a connection nobody uses stays open for a moment longer, for the request that may be on
its way; it is answered, and told. uvicorn's own shutdown closes idle connections at once, and busy ones at the end of an
answer whose head promised otherwise: a client that sends on right then gets nothing.
"""

from __future__ import annotations

import asyncio
import socket

import structlog
import uvicorn
from uvicorn.server import ServerState

from inferbus.process.runtime import QuietServer
from inferbus_gateway.joined_head import JoiningProtocol

_LOOK_S = 0.1
_CANCELLED_S = 1.0
log = structlog.get_logger()


class DoorState(ServerState):
    """What the server and the protocols of all its connections share."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = False


class DrainingProtocol(JoiningProtocol):
    """One connection: while its server drains, every answer that begins is its last."""

    server_state: DoorState

    @property
    def idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.server_state.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def begin_drain(self) -> None:
        """Have the answer that is being made say so, unless its head is out already."""
        if not self.idle and not self.cycle.response_started:
            self.cycle.keep_alive = False


class DrainingServer(QuietServer):
    """uvicorn with an end of its own: `drain_s` for what is open, `linger_s` for connections nobody uses."""

    server_state: DoorState

    def __init__(self, config: uvicorn.Config, *, drain_s: float, linger_s: float) -> None:
        super().__init__(config)
        self.server_state = DoorState()
        self._drain_s = drain_s
        self._linger_s = linger_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, finish what is open, cancel what is not finished in time."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()  # closed, never shut down: others may hold it too
        state = self.server_state
        state.draining = True  # also where it ended by itself
        for connection in self._connections():
            connection.begin_drain()
        try:
            async with asyncio.timeout(self._drain_s):
                await self._drained()
        except TimeoutError:
            log.warning("http_drain_incomplete", requests=len(state.tasks), drain_s=self._drain_s)
            for task in list(state.tasks):
                task.cancel()
            if state.tasks:
                await asyncio.wait(state.tasks, timeout=_CANCELLED_S)
        for connection in self._connections():
            connection.transport.close()

    def _connections(self) -> list[DrainingProtocol]:
        return [connection for connection in self.server_state.connections if isinstance(connection, DrainingProtocol)]

    async def _drained(self) -> None:
        used: dict[DrainingProtocol, float] = {}
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK_S)  # first of all: a connection accepted just before may not be listed yet
            for connection in self._connections():
                if not connection.idle:
                    used[connection] = now()
                elif now() - used.setdefault(connection, now()) >= self._linger_s:
                    connection.transport.close()
            if not self.server_state.connections and not self.server_state.tasks:
                return
