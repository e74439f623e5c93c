"""Trying again: the input of a job that asks once more what another one could not do, made of its dead letters."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from inferbus.batch.splitting import LineSplitter
from inferbus.codec import from_json
from inferbus.contracts.batch import DeadRow, JobRecord
from inferbus.contracts.files import BATCH_INPUT, FileRecord
from inferbus.files.book import FileBook, NewFile

_PIECE_BYTES = 256 * 1024
_KEPT_S = 30 * 86_400


async def make_input(files: FileBook, job: JobRecord, dead_file_id: str) -> FileRecord:
    """Write the lines a job could not do as a file of their own. Lines too long to be kept are not in it.

    Raises:
        NotFound: the dead letters are gone. StorageDown, DependencyDown: later it may be possible.
    """
    letters = await files.get(job.tenant, dead_file_id)
    new = NewFile(
        tenant=job.tenant, purpose=BATCH_INPUT, filename=f"{job.retry_of}_failed.jsonl", key_id=job.key_id,
        expires_at=int(time.time()) + _KEPT_S,
    )  # fmt: skip
    return await files.create(new, originals(files.read(letters)))


async def originals(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give the lines of an input that dead letters are about."""
    splitter = LineSplitter(2**31)
    waiting: list[bytes] = []
    async for piece in pieces:
        letters = [from_json(line.data, DeadRow, what="dead letter") for line in splitter.feed(piece) if line.data]
        waiting += [letter.original.encode() + b"\n" for letter in letters if letter.original]
        if sum(map(len, waiting)) > _PIECE_BYTES:
            yield b"".join(waiting)
            waiting = []
    yield b"".join(waiting)
