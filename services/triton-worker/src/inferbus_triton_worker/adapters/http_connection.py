"""One connection to a server's HTTP/1.1, kept open, for one request after the other. It knows no tensors."""

from __future__ import annotations

import asyncio

import msgspec

_END = b"\r\n\r\n"
_LENGTH, _JSON_LENGTH = b"content-length", b"inference-header-content-length"
_MAX_HEAD_BYTES = 65_536


class Answer(msgspec.Struct, frozen=True):
    """`json_bytes` 0: raw tensors do not follow the JSON."""

    status: int
    json_bytes: int
    body: bytes


class HttpConnection(asyncio.Protocol):
    """`ask` it when nobody else does. After whatever `ask` raises it is closed: an answer may still come."""

    def __init__(self) -> None:
        self.closed = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._asked: asyncio.Future[Answer] | None = None
        self._came: list[bytes] = []
        self._missing = 0
        self._status = self._json_bytes = 0

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        """Send one request as it goes on the wire and wait for its answer; `timeout_s` 0: as long as it takes.

        Raises:
            TimeoutError: there was none in time. OSError: the connection ended, or what came is no answer.
        """
        if self.closed or self._transport is None:
            raise ConnectionResetError("it was closed")
        asked: asyncio.Future[Answer] = self._loop.create_future()
        self._asked = asked
        self._transport.write(request)
        timer = self._loop.call_later(timeout_s, _time_out, asked) if timeout_s else None
        try:
            return await asked
        except BaseException:
            self.close()
            raise
        finally:
            self._asked = None
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's is one of both directions
        self.closed = False

    def data_received(self, data: bytes) -> None:
        asked = self._asked
        if asked is None or asked.done():
            self.close()  # nobody asked
            return
        try:
            body = self._body_of(data)
        except ValueError as exc:
            asked.set_exception(ConnectionAbortedError(f"this is no answer: {exc}"))
            return
        if body is not None:
            asked.set_result(Answer(self._status, self._json_bytes, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(ConnectionResetError(f"it was closed: {exc!r}"))

    # --- reading ------------------------------------------------------------------------------------------------------

    def _body_of(self, data: bytes) -> bytes | None:
        """Take what came; gives the body once all of it is there.

        Raises:
            ValueError: it is no answer.
        """
        if self._missing:  # the head was read before
            self._came.append(data)
            self._missing -= len(data)
        else:
            if self._came:
                data = b"".join([*self._came, data])
                self._came.clear()
            end = data.find(_END)
            if end < 0:
                if len(data) > _MAX_HEAD_BYTES:
                    raise ValueError("its head does not end")
                self._came.append(data)
                return None
            length = self._read_head(data[:end])
            rest = data[end + len(_END) :]
            if len(rest) == length:
                return rest
            self._came.append(rest)
            self._missing = length - len(rest)
        if self._missing > 0:
            return None
        if self._missing < 0:
            raise ValueError("more came than was announced")
        body = b"".join(self._came)
        self._came.clear()
        return body

    def _read_head(self, head: bytes) -> int:
        """Read status and lengths; gives the body's."""
        lines = head.split(b"\r\n")
        self._status, self._json_bytes = int(lines[0].split(b" ", 2)[1]), 0
        length = -1
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == _LENGTH:
                length = int(value)
            elif name == _JSON_LENGTH:
                self._json_bytes = int(value)
        if length < 0 or self._json_bytes > length:
            raise ValueError("it has no length")
        return length


def _time_out(asked: asyncio.Future[Answer]) -> None:
    if not asked.done():
        asked.set_exception(TimeoutError())
