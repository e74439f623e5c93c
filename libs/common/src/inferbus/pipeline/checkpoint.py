"""Checkpoint: which rows of an input are done, and what came of them. Parts in a folder beside the output, each a file of
Arrow that is there whole or not at all; resuming is a set difference.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
import pyarrow as pa

from inferbus.codec import from_json
from inferbus.errors import Conflict, NotFound
from inferbus.files.fsspec_storage import FsspecStorage
from inferbus.pipeline.parts import DONE, FAILED, Part, Results, parts_of, read_part
from inferbus.pipeline.row_batch import RowBatch, digest_of

__all__ = ["DONE", "FAILED", "Checkpoint", "Results", "RowSet"]
_PARTS, _PLAN = "parts", "plan.json"
_FORMAT = "parts of columns"
"""What a checkpoint is written in: one of another is not gone on with."""


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
    """The checkpoint of one pipeline over one input. `by_digest`: the input has no name or time that says whether it is the
    same again, so that what was read of it is compared."""

    def __init__(self, storage: FsspecStorage, *, by_digest: bool = False) -> None:
        self._storage = storage
        self._by_digest = by_digest
        self._digests: dict[int, str] = {}
        self._new_digests: dict[int, str] = {}
        self.done = RowSet()
        self.failed = 0
        self._parts: list[tuple[int, str]] = []

    async def open(self, plan: Sequence[str]) -> str:
        """Begin, or go on where an earlier run was stopped; gives the name of the run, which stays the same.

        Raises:
            Conflict: it is of another pipeline, or the input has changed.
        """
        digest = hashlib.sha256("\n".join([_FORMAT, *plan]).encode()).hexdigest()
        try:
            data = await self._body(_PLAN)
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
        for body in await self._storage.bodies(_PARTS):
            if body.name.endswith(".arrow"):
                self._note(body.name, await self.part(body.name))
        return known.run

    def check_block(self, n: int, rows: RowBatch) -> None:
        """See that block `n` of an input without a mark is what it was.

        Raises:
            Conflict: it is another.
        """
        if not self._by_digest:
            return
        digest = digest_of(rows)
        if self._digests.setdefault(n, digest) != digest:
            raise Conflict(
                f"rows {n} x 1024 and on are not what they were when this run was stopped: an input that gives its rows in "
                "another order, or others, cannot be gone on with; remove the checkpoint, or write elsewhere"
            )
        self._new_digests[n] = digest

    async def commit(self, results: Results) -> None:
        """Store what came of some rows, durably."""
        digests, self._new_digests = self._new_digests, {}
        for part, data in parts_of(results, digests):
            name = f"{_PARTS}/{secrets.token_hex(10)}.arrow"
            await self._write(name, data)
            self._note(name, part)

    async def in_order(self) -> AsyncIterator[tuple[int, Part, int]]:
        """Give all results in the order of the rows, once each: row, its part, its place there. Parts overlap by what was
        under way at once: no more than that is in memory."""
        waiting: list[tuple[int, int, int]] = []
        open_: dict[int, tuple[Part, int]] = {}
        last = -1

        def below(bound: int | None) -> Iterator[tuple[int, Part, int]]:
            nonlocal last
            while waiting and (bound is None or waiting[0][0] < bound):
                row, n, at = heapq.heappop(waiting)
                part, left = open_[n]
                if left == 1:
                    del open_[n]
                else:
                    open_[n] = (part, left - 1)
                if row > last:
                    last = row
                    yield row, part, at

        for n, (first, name) in enumerate(sorted(self._parts)):
            for found in below(first):
                yield found
            part = await self.part(name)
            numbers = part.numbers
            open_[n] = (part, len(numbers))
            for at, row in enumerate(numbers):
                heapq.heappush(waiting, (row, n, at))
        for found in below(None):
            yield found

    async def all_parts(self) -> AsyncIterator[Part]:
        """Give the parts one after the other, in no order."""
        for _, name in self._parts:
            yield await self.part(name)

    async def part(self, name: str) -> Part:
        return read_part(await self._body(name))

    async def remove(self) -> None:
        await self._storage.delete_all()

    def _note(self, name: str, part: Part) -> None:
        numbers = part.numbers
        if not numbers:
            return
        states = part.states
        for row, state in zip(numbers, states, strict=True):
            if row not in self.done:
                self.done.add(row)
                self.failed += state == FAILED
        self._digests |= part.digests
        self._parts.append((min(numbers), name))

    async def _body(self, name: str) -> bytes:
        return b"".join([piece async for piece in self._storage.read(name)])

    async def _write(self, name: str, data: bytes | pa.Buffer) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(data)

        await self._storage.write(name, pieces())


class _Plan(msgspec.Struct):
    digest: str
    run: str
