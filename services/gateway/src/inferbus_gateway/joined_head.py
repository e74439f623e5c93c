"""A response's head and its first bytes in one write: uvicorn sends them in two, and each costs a system call and wakes
the client (20 us of 200 a request). Whole responses in one step. And lines of the head that are written already: one by one
they cost 2 us each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from litestar.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

_STATUS_LINE = b"HTTP/1.1 "
_MAX_WHOLE_BYTES = 64 * 1024
CONNECTION = "inferbus.connection"
"""In the scope: the `JoiningProtocol` the request came by."""


class JoiningTransport:
    """Holds a response's head back until the body's first bytes come, for one pass of the event loop at most."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.more_head = b""
        """Lines that go into the next head, each with its end."""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS_LINE) and data.endswith(b"\r\n\r\n"):
            if self.more_head:
                data, self.more_head = data[:-2] + self.more_head + b"\r\n", b""
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Write a response in one piece; `head` without the line that ends it."""
        more, self.more_head = self.more_head, b""
        if self._head:
            self._flush()
        self._transport.write(b"".join((head, more, b"\r\n", body)))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a transport that joins writes; the application may abort the connection, and be told of its
    end without a task that waits for it."""

    _on_gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]  # stands in for one

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]  # a key of ours

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._on_gone is not None:
            self._on_gone()

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        """Call this when the connection ends, or now if it has; one at a time, as requests are. None: no more."""
        self._on_gone = callback
        if callback is None:
            return
        self.flow.resume_reading()  # a large body has paused it, and an end that is not read is not noticed
        if self.transport.is_closing():
            callback()

    def put_in_head(self, lines: bytes) -> None:
        """Send these lines with the head of the response to the request that is served now."""
        self.transport.more_head = lines  # type: ignore[attr-defined]  # it is a `JoiningTransport`

    def abort(self) -> None:
        """Close the connection at once, without what waits to be written."""
        self.transport.abort()


def take_body(receive: Receive) -> bytes | None:
    """Take the body of a request that uvicorn has read to its end, as `receive` would give it. None: nothing was taken, and
    `receive` has to be asked, because more is to come or the server is another."""
    cycle = getattr(receive, "__self__", None)
    if type(cycle) is not RequestResponseCycle:
        return None
    if cycle.more_body or cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
        return None
    body, cycle.body = bytes(cycle.body), bytearray()
    cycle.message_event.clear()
    return body


def send_whole(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Send a whole response as uvicorn's two steps would; `headers` have its length. False: nothing was sent, and `send`
    has to do it, because the response is not a plain one or the server another."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle:
        return False
    transport: object = cycle.transport
    if (
        type(transport) is not JoiningTransport
        or not cycle.keep_alive
        or cycle.response_started
        or cycle.disconnected
        or cycle.access_log
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
        or len(body) > _MAX_WHOLE_BYTES
    ):
        return False
    every = (*cycle.default_headers, *headers)
    if HEADER_VALUE_RE.search(b"".join([value for _, value in every])) or b"connection" in dict(every):
        return False
    lines = [STATUS_LINE[status], *[b"%b: %b\r\n" % line for line in every]]
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    transport.write_whole(b"".join(lines), body)
    cycle.message_event.set()
    cycle.on_response()
    return True
