"""Pressing on a limit: many connections that ask again and again, whatever they are answered.

Each sends one request at a time, waits a little after a refusal (less than it was told to), comes back after its gateway died,
and is opened anew now and then, as clients come and go: gateways that were restarted would else have none.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from inferbus_bench.limit_judge import window_of

SERVED, REFUSED = 200, 429
LOST = 0
"""Stands for the status where the connection ended before the answer did."""
TOKENS = (8, 64)
_HOST = "127.0.0.1"
_REOPEN_AFTER = (20, 60)
_AGAIN_S = 0.05
_ANSWER_S = 60.0
_PROMPT = "Tell me what the threading module does, and when it is of any use."


class Seen(msgspec.Struct):
    """What clients saw: answers by window and status, by the time they came."""

    answers: Counter[tuple[int, int]] = msgspec.field(default_factory=Counter)

    def count(self, windows: Sequence[int], status: int) -> int:
        return sum(self.answers[window, status] for window in windows)

    def others(self, windows: Sequence[int]) -> dict[int, int]:
        """Count answers that are neither the answer nor a refusal, by status."""
        found: Counter[int] = Counter()
        for (window, status), count in self.answers.items():
            if window in windows and status not in (SERVED, REFUSED):
                found[status] += count
        return dict(found)


class Crowd:
    """`connections` clients with one key. `pause_s`: about how long one waits after a refusal."""

    def __init__(self, port: int, key: str, model: str, *, connections: int, pause_s: float) -> None:
        self._port = port
        self._pause_s = pause_s
        self._requests = [_request_bytes(port, key, model, tokens) for tokens in range(TOKENS[0], TOKENS[1] + 1)]
        self.connections = connections
        self.seen = Seen()

    async def press(self, seconds: float) -> None:
        """Ask until the time is over; what is open then is read to its end."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._stay(end) for _ in range(self.connections)))

    async def _stay(self, end: float) -> None:
        while time.monotonic() < end:
            try:
                reader, writer = await asyncio.open_connection(_HOST, self._port)
            except OSError:
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                await self._use(reader, writer, end)
            finally:
                writer.close()

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> None:
        for _ in range(random.randint(*_REOPEN_AFTER)):
            try:
                async with asyncio.timeout(_ANSWER_S):
                    writer.write(random.choice(self._requests))
                    status = await _read_status(reader)
            except (OSError, EOFError, TimeoutError):
                status = LOST
            self.seen.answers[window_of(time.time()), status] += 1
            if status != SERVED:
                await asyncio.sleep(self._pause_s * (0.5 + random.random()) if status else _AGAIN_S)
            if status == LOST or time.monotonic() >= end:
                return


async def _read_status(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; give its status.

    Raises:
        EOFError: the connection ended before (`IncompleteReadError` is one).
    """
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, rest = head.partition(b"\r\ncontent-length:")
    if not rest:
        raise EOFError("an answer without a length")
    await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    return int(head.split(b" ", 2)[1])


def _request_bytes(port: int, key: str, model: str, tokens: int) -> bytes:
    messages = [{"role": "user", "content": _PROMPT}]
    body = msgspec.json.encode({"model": model, "messages": messages, "max_tokens": tokens})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {_HOST}:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
