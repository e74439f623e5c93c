"""Shortcut: messages for plain functions are handed over in the call that brings their bytes.

nats-py puts what comes into a buffer, wakes a task that takes it out again, and matches every line against patterns: as much
as some handlers take. What is not a whole message for a handler goes that way all the same, with all that comes behind it
until nats-py has caught up.
"""

from __future__ import annotations

from asyncio import StreamReader
from collections.abc import Callable

Take = Callable[[int, bytes, bytes, bytes, bytes], bool]
"""Handle a message: its subscription, subject, reply, block of headers and payload. False: this is not for a handler."""

_END = b"\r\n"
_PLAIN, _WITH_HEADERS = b"MSG", b"HMSG"


class Shortcut:
    """Sits before the buffer of one connection. `is_behind` says whether nats-py still has something to parse."""

    def __init__(self, reader: StreamReader, take: Take, is_behind: Callable[[], bool]) -> None:
        self._feed = reader.feed_data
        self._take = take
        self._is_behind = is_behind

    def feed_data(self, data: bytes) -> None:
        """Stand in for the buffer's own method."""
        at = 0 if self._is_behind() else self._taken(data)
        if at < len(data):
            self._feed(data[at:] if at else data)

    def _taken(self, data: bytes) -> int:
        """Hand over the messages that `data` begins with; gives where the rest begins."""
        at, size = 0, len(data)
        while at < size:
            end = data.find(_END, at)
            parts = data[at:end].split()
            count = len(parts)
            if end < 0 or count < 4 or not (parts[-1].isdigit() and parts[2].isdigit()):
                return at
            begin = body = end + 2
            stop = begin + int(parts[-1])
            if stop + 2 > size:
                return at
            if parts[0] == _PLAIN and count <= 5:
                reply = parts[3] if count == 5 else b""
            elif parts[0] == _WITH_HEADERS and 5 <= count <= 6 and parts[-2].isdigit():
                body, reply = begin + int(parts[-2]), parts[3] if count == 6 else b""
            else:
                return at
            if not self._take(int(parts[2]), parts[1], reply, data[begin:body], data[body:stop]):
                return at
            at = stop + 2
        return at
