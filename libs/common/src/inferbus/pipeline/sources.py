"""Sources: where the rows of a pipeline come from. A source is opened once a run; reading blocks, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Executor
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from inferbus.pipeline.formats import UnreadableRow, files_of, mark_of, read_rows
from inferbus.pipeline.row_batch import Row, of_arrow, of_rows
from inferbus.pipeline.stage_run import Batch


class Unread(msgspec.Struct, frozen=True):
    """A row that could not be read, and its number."""

    number: int
    row: UnreadableRow


Blocks = AsyncIterator[Batch | Unread]
Read = Iterator[pa.RecordBatch | list[Row | UnreadableRow]]


class Opened(msgspec.Struct, frozen=True):
    """An input as it is: what tells it from another in its place, and its rows. `by_digest`: nothing tells that, so that
    whoever goes on with it compares what is read."""

    mark: str
    blocks: Any
    """A `Read`; msgspec cannot say so."""
    by_digest: bool = False


class Source(Protocol):
    """An input."""

    def describe(self) -> str:
        """Say what it is, in a line."""
        ...

    def open(self) -> Opened:
        """Look at it.

        Raises:
            InvalidRequest: it is not there.
        """
        ...


class FileSource(msgspec.Struct, frozen=True, kw_only=True):
    """One file, or several."""

    url: str
    format: str
    options: dict[str, Any]

    def describe(self) -> str:
        return f"{self.url} ({self.format})"

    def open(self) -> Opened:
        fs, paths = files_of(self.url, self.options)
        return Opened(mark_of(fs, paths), (one for path in paths for one in read_rows(fs, path, self.format)))


async def blocks_of(read: Any, threads: Executor) -> AsyncGenerator[Batch | Unread, None]:
    """Read an input and number its rows, a block ahead of whoever takes them."""
    loop, number = asyncio.get_running_loop(), 0
    try:
        while (block := await loop.run_in_executor(threads, next, read, None)) is not None:
            if isinstance(block, pa.RecordBatch):
                rows = of_arrow(block)
                yield Batch(list(range(number, number + rows.count)), rows)
                number += rows.count
                continue
            for one in _numbered(block, number):
                yield one
            number += len(block)
    finally:
        read.close()


def _numbered(block: list[Row | UnreadableRow], first: int) -> Iterator[Batch | Unread]:
    readable = [(n, row) for n, row in enumerate(block, first) if not isinstance(row, UnreadableRow)]
    for places, rows in of_rows([row for _, row in readable]):
        yield Batch([readable[n][0] for n in places], rows)
    for n, row in enumerate(block, first):
        if isinstance(row, UnreadableRow):
            yield Unread(n, row)
