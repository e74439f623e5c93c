"""Planning: an input, read once and in constant memory, becomes chunks in the queue. Nothing runs before the job says so."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec

from inferbus.batch.splitting import LineSplitter
from inferbus.contracts.batch import ChunkSpec, InputMark, JobRecord
from inferbus.contracts.files import FileRecord
from inferbus.errors import InvalidRequest, TooLarge
from inferbus.files.ports import Storage
from inferbus_batch.adapters.chunk_queue import ChunkQueue
from inferbus_batch.adapters.seen_ids import SqliteSeenIds
from inferbus_batch.domain.cutting import CutLimits, Cutter

_AT_ONCE = 64


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of planning came to: `id` names its chunks."""

    id: str
    chunks: int
    rows: int
    input: InputMark


class Planner:
    """Plans one job at a time for a coordinator."""

    def __init__(self, storage: Storage, queue: ChunkQueue, limits: CutLimits, *, max_rows: int) -> None:
        self._storage = storage
        self._queue = queue
        self._limits = limits
        self._max_rows = max_rows

    async def plan(self, job: JobRecord, file: FileRecord) -> Plan:
        """Publish the chunks of a job.

        Raises:
            InvalidRequest: it has no line. TooLarge: it has too many. NotFound: the input is gone. Changed: it changed
            while it was read. StorageDown, DependencyDown, Overloaded: later it may be possible.
        """
        before = await self._storage.stat(file.body)
        plan = secrets.token_hex(6)
        cutter, sending = None, set[asyncio.Task[None]]()
        try:
            with SqliteSeenIds() as seen:
                cutter = Cutter(job.id, plan, self._limits, seen)
                async for spec in self._chunks(file, cutter):
                    sending.add(asyncio.create_task(self._queue.publish(job.tenant, spec)))
                    if len(sending) >= _AT_ONCE:
                        sending = await _some_done(sending)
            while sending:
                sending = await _some_done(sending)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        if not cutter.rows:
            raise InvalidRequest("the input file has no line", param="input_file_id")
        after = await self._storage.stat(file.body)
        if (before.mark, before.bytes) != (after.mark, after.bytes):
            raise InvalidRequest("the input file changed while it was read", param="input_file_id")
        mark = InputMark(body=file.body, bytes=before.bytes, mark=before.mark)
        return Plan(id=plan, chunks=cutter.chunks, rows=cutter.rows, input=mark)

    async def _chunks(self, file: FileRecord, cutter: Cutter) -> AsyncIterator[ChunkSpec]:
        splitter = LineSplitter(self._limits.line_bytes)
        async for block in self._storage.read(file.body):
            for line in splitter.feed(block):
                for spec in cutter.add(line):
                    yield spec
            if cutter.rows > self._max_rows:
                raise TooLarge(
                    f"more than {cutter.rows} lines, the limit is {self._max_rows} lines", param="input_file_id"
                )
        for line in splitter.finish():
            for spec in cutter.add(line):
                yield spec
        for spec in cutter.finish():
            yield spec


async def _some_done(sending: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    done, pending = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return pending
