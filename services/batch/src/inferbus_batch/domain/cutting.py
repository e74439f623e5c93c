"""Cutting: lines of an input put together to chunks, of so many rows and bytes. One pass, nothing is kept but a chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from inferbus.batch.lines import custom_id_of, duplicate, overlong
from inferbus.batch.splitting import Line
from inferbus.contracts.batch import ChunkSpec, LineFault
from inferbus_batch.ports import SeenIds

_BLANKS = 4  # so many times the lines of a chunk, where most are blank


class CutLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large chunks are. The first ones have `first_rows`, so that results come early; every `double_after` chunks
    they are twice as large, up to `rows`."""

    rows: int = 512
    bytes: int = 4 * 1024 * 1024
    first_rows: int = 16
    double_after: int = 4
    line_bytes: int = 16 * 1024 * 1024

    def rows_of(self, n: int) -> int:
        """Give the rows of chunk `n` at most."""
        return min(self.rows, self.first_rows << min(20, n // self.double_after))


class Cutter:
    """`add` every line in order; at the end `finish`. `rows` counts what gets a result."""

    def __init__(self, job: str, plan: str, limits: CutLimits, seen: SeenIds) -> None:
        self._job = job
        self._plan = plan
        self._limits = limits
        self._seen = seen
        self._first: Line | None = None
        self._digest = hashlib.sha256()
        self._faults: list[LineFault] = []
        self._size = self._lines = self._rows = 0
        self.rows = 0
        self.chunks = 0

    def add(self, line: Line) -> Iterator[ChunkSpec]:
        """Take a line; gives the chunks that are complete."""
        limits = self._limits
        if line.data is None:
            yield from self.finish()
            self.rows += 1
            yield self._overlong(line)
            return
        if self._first is not None and self._size + line.size > limits.bytes:
            yield from self.finish()
        if self._first is None:
            self._first, self._digest = line, hashlib.sha256()
        self._digest.update(line.data)
        if line.size > len(line.data):
            self._digest.update(b"\n")
        self._lines += 1
        self._size += line.size
        if not line.is_blank:
            self.rows += 1
            self._rows += 1
            self._look_for_duplicate(line, line.data)
        if self._rows >= limits.rows_of(self.chunks) or self._lines >= _BLANKS * limits.rows:
            yield from self.finish()

    def finish(self) -> Iterator[ChunkSpec]:
        """Give the last chunk. Nothing but blank lines is nothing to do."""
        first, self._first = self._first, None
        if first is not None and self._rows:
            spec = ChunkSpec(
                job=self._job, plan=self._plan, n=self.chunks, first_line=first.number, lines=self._lines,
                rows=self._rows, offset=first.offset, bytes=self._size, sha256=self._digest.hexdigest(),
                faults=self._faults,
            )  # fmt: skip
            self.chunks += 1
            yield spec
        self._faults, self._size, self._lines, self._rows = [], 0, 0, 0

    def _overlong(self, line: Line) -> ChunkSpec:
        spec = ChunkSpec(
            job=self._job, plan=self._plan, n=self.chunks, first_line=line.number, lines=1, rows=1, offset=line.offset,
            bytes=line.size, sha256="", faults=[overlong(line.number, line.size, self._limits.line_bytes)],
            unread=True,
        )  # fmt: skip
        self.chunks += 1
        return spec

    def _look_for_duplicate(self, line: Line, data: bytes) -> None:
        custom_id = custom_id_of(data)
        if custom_id and not self._seen.add(custom_id):
            self._faults.append(duplicate(line.number, custom_id))
