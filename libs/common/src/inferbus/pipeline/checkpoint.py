"""Checkpoint: which rows of an input are done, and what came of them. Parts in a folder beside the output, each a file of
Arrow that is there whole or not at all; resuming is a set difference.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from inferbus.codec import from_json
from inferbus.errors import Conflict, NotFound
from inferbus.files.fsspec_storage import FsspecStorage
from inferbus.pipeline.formats import Row

DONE, DROPPED, FAILED = "done", "dropped", "failed"
_PARTS, _PLAN = "parts", "plan.json"
_SCHEMA = pa.schema([("row", pa.int64()), ("state", pa.string()), ("value", pa.large_binary())])


class Result(msgspec.Struct, frozen=True):
    """What came of a row: `done` with its value, `dropped`, or `failed` with what was wrong (`DeadRow` of pipelines)."""

    row: int
    state: str
    value: Row


class RowSet:
    """Row numbers, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def __contains__(self, row: int) -> bool:
        return row // 8 < len(self._bits) and bool(self._bits[row // 8] & (1 << row % 8))

    def add(self, row: int) -> None:
        if row in self:
            return
        missing = row // 8 + 1 - len(self._bits)
        if missing > 0:
            self._bits.extend(bytes(max(missing, 4096)))
        self._bits[row // 8] |= 1 << row % 8
        self.count += 1


class Checkpoint:
    """The checkpoint of one pipeline over one input."""

    def __init__(self, storage: FsspecStorage) -> None:
        self._storage = storage
        self.done = RowSet()
        self.failed = 0
        self._parts: list[tuple[int, str]] = []

    async def open(self, plan: Sequence[str]) -> str:
        """Begin, or go on where an earlier run was stopped; gives the name of the run, which stays the same.

        Raises:
            Conflict: it is of another pipeline, or the input has changed.
        """
        digest = hashlib.sha256("\n".join(plan).encode()).hexdigest()
        try:
            data = b"".join([piece async for piece in self._storage.read(_PLAN)])
        except NotFound:
            run = secrets.token_hex(8)
            await self._write(_PLAN, msgspec.json.encode({"digest": digest, "run": run, "plan": list(plan)}))
            return run
        known = from_json(data, _Plan, what="checkpoint")
        if known.digest != digest:
            raise Conflict(
                "the checkpoint beside the output is of another pipeline, or the input has changed since: "
                "remove it, or write elsewhere"
            )
        for part in await self._storage.bodies(_PARTS):
            if part.name.endswith(".arrow"):
                results = [one async for one in self._read(part.name)]
                self._note(part.name, results)
        return known.run

    async def commit(self, results: Sequence[Result]) -> None:
        """Store what came of some rows, durably."""
        columns = [
            pa.array([one.row for one in results], pa.int64()),
            pa.array([one.state for one in results], pa.string()),
            pa.array([msgspec.json.encode(one.value) for one in results], pa.large_binary()),
        ]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        name = f"{_PARTS}/{secrets.token_hex(10)}.arrow"
        await self._write(name, sink.getvalue().to_pybytes())
        self._note(name, results)

    async def in_order(self) -> AsyncIterator[Result]:
        """Give all results in the order of the rows, once each. Parts overlap by what was under way at once: no more than
        that is in memory."""
        waiting: list[tuple[int, Result]] = []
        last = -1
        for first, name in sorted(self._parts):
            for result in _below(waiting, first):
                if result.row > last:
                    last = result.row
                    yield result
            async for one in self._read(name):
                heapq.heappush(waiting, (one.row, one))
        for result in _below(waiting, None):
            if result.row > last:
                last = result.row
                yield result

    async def remove(self) -> None:
        await self._storage.delete_all()

    def _note(self, name: str, results: Sequence[Result]) -> None:
        if not results:
            return
        for one in results:
            if one.row not in self.done:
                self.done.add(one.row)
                self.failed += one.state == FAILED
        self._parts.append((min(one.row for one in results), name))

    async def _read(self, name: str) -> AsyncIterator[Result]:
        data = b"".join([piece async for piece in self._storage.read(name)])
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        for row, state, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
            yield Result(row, state, msgspec.json.decode(value))

    async def _write(self, name: str, data: bytes) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield data

        await self._storage.write(name, pieces())


class _Plan(msgspec.Struct):
    digest: str
    run: str


def _below(waiting: list[tuple[int, Any]], bound: int | None) -> Iterator[Result]:
    while waiting and (bound is None or waiting[0][0] < bound):
        yield heapq.heappop(waiting)[1]
