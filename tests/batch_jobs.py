"""Jobs for tests of batch: inputs of lines for the simulator, and what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.main_path import MODEL, MainPath

from inferbus.batch.job_book import JobBook, new_job_id
from inferbus.batch.part_book import PartBook
from inferbus.batch.states import is_over
from inferbus.bus import Bus
from inferbus.contracts.batch import JobRecord
from inferbus.contracts.files import BATCH_INPUT
from inferbus.files.book import FileBook, NewFile
from inferbus.files.fsspec_storage import FsspecStorage, open_storage
from inferbus.files.settings import FilesSettings
from inferbus.testing import eventually

CHAT = "/v1/chat/completions"


def line(custom_id: str, words: str, *, tokens: int = 2, model: str | None = MODEL, url: str = CHAT) -> bytes:
    """Write a line of an input."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": words}], "max_tokens": tokens}
    if model is not None:
        body["model"] = model
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode()


def lines(count: int, *, tokens: int = 2) -> list[bytes]:
    """Write lines that all differ."""
    return [line(f"row-{n}", f"say {n}", tokens=tokens) for n in range(1, count + 1)]


class Batches:
    """A tenant's view of batch, without a door."""

    def __init__(self, bus: Bus, storage: FsspecStorage) -> None:
        self.book = JobBook(bus)
        self.parts = PartBook(bus)
        self.storage = storage
        self.files = FileBook(bus, storage)

    async def submit(self, data: Iterable[bytes], *, tenant: str = "dev", **fields: Any) -> JobRecord:
        """Store an input and begin a job."""

        async def pieces() -> AsyncIterator[bytes]:
            for one in data:
                yield one + b"\n"

        file = await self.files.create(NewFile(tenant=tenant, purpose=BATCH_INPUT, filename="input.jsonl"), pieces())
        return await self.begin(input_file_id=file.id, tenant=tenant, **fields)

    async def begin(self, **fields: Any) -> JobRecord:
        now = time.time()
        given = {"tenant": "dev", "endpoint": CHAT, "created": now, "expires_at": now + 3600.0} | fields
        job = JobRecord(id=new_job_id(), **given)
        return (await self.book.create(job)).job

    async def job(self, job: JobRecord) -> JobRecord:
        return (await self.book.find(job.tenant, job.id)).job

    async def over(self, job: JobRecord, *, within_s: float = 180.0) -> JobRecord:
        """Wait for a job's end."""

        async def has_ended() -> bool:
            return is_over(await self.job(job))

        await eventually(has_ended, within_s=within_s)
        return await self.job(job)

    async def reaches(self, job: JobRecord, completed: int, *, within_s: float = 120.0) -> None:
        """Wait until so many rows of a job are committed."""

        async def has_reached() -> bool:
            return sum([part.rows async for _, part in self.parts.since(job.tenant, job.id, 1)]) >= completed

        await eventually(has_reached, within_s=within_s)

    async def content(self, tenant: str, file_id: str) -> list[dict[str, Any]]:
        """Read a file of JSON lines."""
        record = await self.files.get(tenant, file_id)
        data = b"".join([piece async for piece in self.files.read(record)])
        assert len(data) == record.bytes
        return [msgspec.json.decode(one) for one in data.splitlines()]

    async def output(self, job: JobRecord) -> list[dict[str, Any]]:
        return await self.content(job.tenant, job.output_file_id) if job.output_file_id else []

    async def errors(self, job: JobRecord) -> list[dict[str, Any]]:
        return await self.content(job.tenant, job.error_file_id) if job.error_file_id else []


@asynccontextmanager
async def open_batches(path: MainPath, folder: Path) -> AsyncIterator[Batches]:
    bus = await path.nats.connect("batch")
    storage = open_storage(FilesSettings(url=str(folder / "files")))
    try:
        yield Batches(bus, storage)
    finally:
        await storage.close()
        await bus.close()
