"""A client that reads server-sent events byte by byte and tells how a stream ended: as HTTP says it must, or broken off.

Its own small HTTP, because what it must see (a missing last chunk, the moment each event came) is what libraries hide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
from tests.chaos.assembled import is_token

_RETURN_S = 0.1
SILENT_S = 60.0
"""Without a byte for that long a stream counts as one that never ended; comments count as bytes."""


class Refused(Exception):
    """The answer is not 200: nothing of a stream was sent."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"{status} {body[:300]!r}")
        self.status = status
        retry_after = headers.get("retry-after", "")
        self.retry_after_s = float(retry_after) if retry_after.isdigit() else None


class BrokenOff(Exception):
    """The connection was refused, reset, or closed before the stream's end."""


class NeverEnded(Exception):
    """Nothing came for `SILENT_S`."""


class Received(msgspec.Struct, kw_only=True):
    """One stream as its client has it so far. `times`: when each event with a piece of the answer came (monotonic)."""

    request_id: str
    gateway: str
    began: float
    events: list[bytes] = []
    times: list[float] = []
    last_id: str = ""
    ended: float = 0.0

    def add(self, event: bytes) -> None:
        """Take one event, comments and all."""
        if event.startswith(b":"):
            return
        self.events.append(event)
        if is_token(event):
            self.times.append(time.monotonic())
        if event.startswith(b"id: "):
            self.last_id = event[4 : event.index(b"\n")].decode()

    @property
    def longest_gap_s(self) -> float:
        """Give the longest time between two pieces of the answer."""
        return max((later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)), default=0.0)


async def receive(
    url: str, request: bytes, headers: Mapping[str, str], received: Received, *, path: str = "/v1/chat/completions"
) -> None:
    """Send one request and read its stream to the end. An empty `request` is a GET.

    Raises:
        Refused, BrokenOff, NeverEnded.
    """
    host, port = url.removeprefix("http://").split(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except OSError as exc:
        raise BrokenOff(f"no connection: {exc!r}") from exc
    try:
        writer.write(_head(path, request, headers) + request)
        async for event in _events(reader):
            received.add(event)
    except TimeoutError as exc:
        raise NeverEnded(f"silent for {SILENT_S:g} s after {len(received.events)} events") from exc
    except (OSError, asyncio.IncompleteReadError) as exc:
        raise BrokenOff(f"after {len(received.events)} events: {exc!r}") from exc
    finally:
        writer.transport.abort()


async def receive_durably(
    gateways: Callable[[], Mapping[str, str]], request: bytes, headers: Mapping[str, str], received: Received
) -> int:
    """Send one durable request to the first of the gateways (name: url) and read its stream to the end, wherever it goes
    on: a broken connection is a reason to come back, to the next gateway, with the id of the last event. Gives how often
    it did.

    Raises:
        NeverEnded: as for `receive`. Refused: it was not accepted. BrokenOff: no gateway let it come back for `SILENT_S`.
    """
    name = received.request_id
    headers = {**headers, "X-Request-Id": name, "Idempotency-Key": name, "X-Inferbus-Durable": "true"}
    returns, give_up = 0, time.monotonic() + SILENT_S
    while True:
        known = list(gateways().items())
        received.gateway, url = known[returns % len(known)]
        try:
            if received.last_id:
                follow = {**headers, "Last-Event-ID": received.last_id}
                await receive(url, b"", follow, received, path=f"/v1/requests/{name}/events")
            else:
                await receive(url, request, headers, received)
        except (BrokenOff, Refused) as exc:
            refused = isinstance(exc, Refused) and (not received.last_id or exc.retry_after_s is None)
            if refused or time.monotonic() > give_up:
                raise
            returns += 1
            await asyncio.sleep(_RETURN_S)
        else:
            return returns


def _head(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: chaos", "Connection: close"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    async with asyncio.timeout(SILENT_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status = int(head.split(" ", 2)[1])
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if status != 200:
        async with asyncio.timeout(SILENT_S):
            raise Refused(status, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
    buffer = b""
    async for piece in _chunks(reader):
        buffer += piece
        *events, buffer = buffer.split(b"\n\n")
        for event in events:
            yield event
    if buffer:
        raise BrokenOff(f"ended inside an event: {buffer[:100]!r}")


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(SILENT_S):
            size = int(await reader.readuntil(b"\r\n"), 16)
            data = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield data[:-2]
