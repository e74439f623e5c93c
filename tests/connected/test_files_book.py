from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.main_path import MainPath

from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.files import FileRecord
from inferbus.errors import NotFound
from inferbus.files.book import FileBook, NewFile
from inferbus.files.fsspec_storage import FsspecStorage, open_storage
from inferbus.files.purging import Purged, purge
from inferbus.files.settings import FilesSettings
from inferbus.testing import NatsServer, eventually

NEW = NewFile(tenant="acme", purpose="batch", filename="in.jsonl")


async def pieces() -> AsyncIterator[bytes]:
    yield b"body"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FsspecStorage]:
    storage = open_storage(FilesSettings(url=str(tmp_path / "files")))
    yield storage
    await storage.close()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    bus = await server.connect("batch")
    yield bus
    await bus.close()


async def test_the_first_record_of_an_id_counts(bus: Bus, storage: FsspecStorage) -> None:
    book = FileBook(bus, storage)
    made = await book.create(NEW, pieces())
    assert await book.get("acme", made.id) == made
    again = msgspec.structs.replace(made, filename="other")
    assert await book.add(again) == made
    assert await book.get("acme", made.id) == made
    for tenant, file_id in (("beta", made.id), ("acme", "file-000000000000"), ("acme", "*"), ("acme", ">")):
        with pytest.raises(NotFound):
            await book.get(tenant, file_id)


async def test_what_has_expired_is_not_there_and_is_purged(bus: Bus, storage: FsspecStorage) -> None:
    book = FileBook(bus, storage)
    past = msgspec.structs.replace(NEW, expires_at=int(time.time()) - 1)
    gone, kept = await book.create(past, pieces()), await book.create(NEW, pieces())
    with pytest.raises(NotFound):
        await book.get("acme", gone.id)
    assert await purge(bus, book) == Purged(1, 0)
    assert await purge(bus, book) == Purged(0, 0)
    assert [body.name for body in await storage.bodies("files/acme")] == [kept.body]


async def test_bodies_nobody_knows_are_purged_when_they_are_old(
    bus: Bus, storage: FsspecStorage, tmp_path: Path
) -> None:
    book = FileBook(bus, storage)
    kept = await book.create(NEW, pieces())
    old, young = [await book.store(tenant, pieces()) for tenant in ("acme", "beta")]
    half = tmp_path / "files" / f"{kept.body}.part-0a0a0a0a"  # what a killed process leaves of an upload
    half.write_bytes(b"x")
    long_ago = time.time() - 2 * 86_400
    for body in (old.body, kept.body):
        os.utime(tmp_path / "files" / body, (long_ago, long_ago))
    os.utime(half, (long_ago, long_ago))
    assert await purge(bus, book) == Purged(0, 2)
    assert [body.name for body in await storage.bodies("files/acme")] == [kept.body]
    assert [body.name for body in await storage.bodies("files/beta")] == [young.body]


async def test_the_batch_service_purges(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.batch(purge_every_s=0.2)
        bus = await path.nats.connect("batch")
        storage = open_storage(FilesSettings(url=str(path.files)))
        book = FileBook(bus, storage)
        await book.create(msgspec.structs.replace(NEW, expires_at=1), pieces())
        await eventually(lambda: not list((path.files / "files/acme").iterdir()), within_s=30)

        async def is_forgotten() -> bool:
            return not [
                key
                for key in await bus.kv_keys(routes.KV_FILES)
                if (data := await bus.kv_get(routes.KV_FILES, key)) and msgspec.json.decode(data, type=FileRecord)
            ]

        await eventually(is_forgotten)
        await storage.close()
        await bus.close()
