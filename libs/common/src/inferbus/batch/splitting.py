"""Splitting: lines out of blocks of bytes, in memory that does not depend on how long a line is. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


class Line(msgspec.Struct, frozen=True):
    """A physical line. `number` counts from 1, `offset` and `size` (in bytes) are where it lies, its end included; `data` is without
    it, None where the line is over the limit and was not kept."""

    number: int
    offset: int
    size: int
    data: bytes | None

    @property
    def is_blank(self) -> bool:
        return self.data is not None and not self.data.strip()


class LineSplitter:
    """`feed` blocks as they come, then `finish`. A line longer than `max_bytes` is counted, not kept."""

    def __init__(self, max_bytes: int, *, first_line: int = 1, offset: int = 0) -> None:
        self._max = max_bytes
        self._number = first_line
        self._offset = offset
        self._parts: list[bytes] = []
        self._size = 0
        self._is_kept = True

    def feed(self, block: bytes) -> Iterator[Line]:
        """Give the lines that end in this block."""
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            self._take(block[start:end])
            yield self._line(1)
            start = end + 1
        if start < len(block):
            self._take(block[start:] if start else block)

    def finish(self) -> Iterator[Line]:
        """Give the last line, where it has no end of its own."""
        if self._size:
            yield self._line(0)

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max:
            self._is_kept = False
            self._parts.clear()
        elif self._is_kept and piece:
            self._parts.append(piece)

    def _line(self, end: int) -> Line:
        data = (self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)) if self._is_kept else None
        line = Line(self._number, self._offset, self._size + end, data)
        self._number += 1
        self._offset += line.size
        self._parts.clear()
        self._size, self._is_kept = 0, True
        return line
