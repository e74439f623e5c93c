"""Finalizing: the bodies of a job's parts, put together in the order of its lines: output, error file, dead letters."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import msgspec

from inferbus.batch.lines import error_line
from inferbus.batch.part_book import PartBook
from inferbus.batch.splitting import LineSplitter
from inferbus.codec import from_json
from inferbus.contracts.batch import BodyRef, DeadRow, JobRecord, PartRecord
from inferbus.contracts.files import BATCH_OUTPUT, FileRecord
from inferbus.errors import InferbusError
from inferbus.files.book import FileBook
from inferbus.files.names import body_of_file
from inferbus.files.ports import Storage

BATCH_DEAD = "batch_dead_letters"
_PIECE_BYTES = 256 * 1024


class Finalizer:
    """Writes the files of a job whose parts are all there. Doing it again writes the same once more."""

    def __init__(self, storage: Storage, parts: PartBook, files: FileBook) -> None:
        self._storage = storage
        self._parts = parts
        self._files = files

    async def write_files(self, job: JobRecord) -> None:
        """Write what the record names.

        Raises:
            StorageDown, DependencyDown: later it may be possible.
        """
        if job.output_file_id:
            answers = self._bodies(job, lambda part: part.output)
            await self._write(job, job.output_file_id, "output", BATCH_OUTPUT, answers, job.counts.completed)
        if job.error_file_id:
            await self._write(job, job.error_file_id, "error", BATCH_OUTPUT, self._errors(job), job.counts.failed)
        if job.dead_file_id:
            letters = self._bodies(job, lambda part: part.dead)
            await self._write(job, job.dead_file_id, "dead", BATCH_DEAD, letters, job.counts.failed)

    async def _write(
        self, job: JobRecord, file_id: str, kind: str, purpose: str, pieces: AsyncIterator[bytes], rows: int
    ) -> None:
        body, now = body_of_file(job.tenant, file_id), time.time()
        expires_at = now + job.output_expires_s if job.output_expires_s else job.keep_until
        written = await self._storage.write(body, pieces)
        await self._files.add(
            FileRecord(
                id=file_id, tenant=job.tenant, purpose=purpose, filename=f"{job.id}_{kind}.jsonl", bytes=written.bytes,
                sha256=written.sha256, body=body, created_at=int(now), expires_at=int(expires_at), rows=rows,
                key_id=job.key_id, job=job.id,
            )
        )  # fmt: skip

    async def _bodies(self, job: JobRecord, ref_of: Callable[[PartRecord], BodyRef | None]) -> AsyncIterator[bytes]:
        for n in range(job.chunks):
            part = await self._parts.find(job.tenant, job.id, n)
            if part is None:
                raise InferbusError(f"part {n} of {job.id} is not there")
            ref = ref_of(part)
            if ref is None:
                continue
            size = 0
            async for piece in self._storage.read(ref.body):
                size += len(piece)
                yield piece
            if size != ref.bytes:
                raise InferbusError(f"{ref.body} has {size} bytes and not {ref.bytes}")

    async def _errors(self, job: JobRecord) -> AsyncIterator[bytes]:
        """Make error lines of the dead letters, in pieces."""
        splitter = LineSplitter(2**31)
        waiting: list[bytes] = []
        async for piece in self._bodies(job, lambda part: part.dead):
            waiting += [error_line(_dead(line.data)) for line in splitter.feed(piece) if line.data]
            if sum(map(len, waiting)) > _PIECE_BYTES:
                yield b"".join(waiting)
                waiting = []
        yield b"".join(waiting)


def _dead(data: bytes) -> DeadRow:
    return from_json(data, DeadRow, what="dead letter")


def ended_job(job: JobRecord, keep_s: float, now: float) -> JobRecord:
    """Say until when a job that ends stays: its files as long as its owner said, else `keep_s`."""
    keep_s = job.output_expires_s or keep_s
    return msgspec.structs.replace(job, keep_until=now + keep_s if keep_s > 0 else 0.0)
