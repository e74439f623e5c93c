from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from moto.server import ThreadedMotoServer
from tests.batch_jobs import lines
from tests.main_path import MainPath

from inferbus.errors import InvalidRequest, NotFound, StorageDown, TooLarge
from inferbus.files.fsspec_storage import FsspecStorage, open_storage
from inferbus.files.settings import FilesSettings
from inferbus.local.ports import free_port
from inferbus.settings import SettingsError
from inferbus.testing import eventually

BIG = 20 * 1024 * 1024


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def whole(storage: FsspecStorage, name: str, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([piece async for piece in storage.read(name, start, length)])


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A local S3, which forgets everything at the end."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def settings_of_s3(url: str, **options: object) -> FilesSettings:
    config = {"connect_timeout": 2, "read_timeout": 5, "retries": {"max_attempts": 1}}
    told = {"endpoint_url": url, "key": "key", "secret": "secret", "config_kwargs": config} | options
    return FilesSettings(url="s3://bucket/below", options=json.dumps(told))


@pytest.fixture(params=["folder", "s3"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FsspecStorage]:
    if request.param == "folder":
        opened = open_storage(FilesSettings(url=str(tmp_path / "files")))
    else:
        url = request.getfixturevalue("s3_url")
        opened = open_storage(settings_of_s3(url))
        if not opened._fs.exists("bucket"):
            opened._fs.mkdir("bucket")
    yield opened
    await opened.delete_below("files")
    await opened.close()


async def test_what_was_written_is_read(storage: FsspecStorage) -> None:
    written = await storage.write("files/acme/file-1", pieces(b"one\n", b"two\n"))
    assert (written.bytes, written.sha256) == (8, hashlib.sha256(b"one\ntwo\n").hexdigest())
    assert await whole(storage, "files/acme/file-1") == b"one\ntwo\n"
    assert (await storage.stat("files/acme/file-1")).bytes == 8


async def test_a_part_is_read(storage: FsspecStorage) -> None:
    await storage.write("files/acme/file-1", pieces(b"0123456789"))
    assert await whole(storage, "files/acme/file-1", 4) == b"456789"
    assert await whole(storage, "files/acme/file-1", 4, 3) == b"456"
    assert await whole(storage, "files/acme/file-1", 8, 100) == b"89"
    assert await whole(storage, "files/acme/file-1", 50) == b""


async def test_a_large_body_goes_in_pieces(storage: FsspecStorage) -> None:
    block = bytes(range(256)) * 4096
    written = await storage.write("files/acme/large", pieces(*[block] * 20))
    assert written.bytes == BIG
    seen = hashlib.sha256()
    async for piece in storage.read("files/acme/large"):
        assert len(piece) <= 8 * 1024 * 1024
        seen.update(piece)
    assert seen.hexdigest() == written.sha256


async def test_nothing_is_a_body_too(storage: FsspecStorage) -> None:
    assert (await storage.write("files/acme/none", pieces())).bytes == 0
    assert await whole(storage, "files/acme/none") == b""


@pytest.mark.parametrize("size", [1, 9 * 1024 * 1024])
async def test_too_much_leaves_nothing(storage: FsspecStorage, size: int) -> None:
    with pytest.raises(TooLarge, match=f"the limit is {size} bytes"):
        await storage.write("files/acme/over", pieces(b"x" * size, b"yy"), limit_bytes=size)
    assert await storage.bodies("files/acme") == []


async def test_a_source_that_breaks_leaves_nothing(storage: FsspecStorage) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * BIG
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await storage.write("files/acme/broken", breaking())
    assert await storage.bodies("files/acme") == []


async def test_what_is_not_there(storage: FsspecStorage) -> None:
    with pytest.raises(NotFound):
        await storage.stat("files/acme/none")
    with pytest.raises(NotFound):
        await whole(storage, "files/acme/none")
    await storage.delete("files/acme/none")
    await storage.delete_below("files/nobody")
    assert await storage.bodies("files/nobody") == []
    assert await storage.folders("files") == []


async def test_folders_and_bodies(storage: FsspecStorage) -> None:
    for name in ("files/acme/1", "files/acme/2", "files/beta/3"):
        await storage.write(name, pieces(b"x"))
    assert sorted(await storage.folders("files")) == ["files/acme", "files/beta"]
    assert sorted(body.name for body in await storage.bodies("files/acme")) == ["files/acme/1", "files/acme/2"]
    await storage.delete("files/acme/1")
    await storage.delete_below("files/beta")
    assert [body.name for body in await storage.bodies("files/acme")] == ["files/acme/2"]
    assert await storage.bodies("files/beta") == []


async def test_another_body_has_another_mark(storage: FsspecStorage) -> None:
    await storage.write("files/acme/1", pieces(b"one"))
    before = await storage.stat("files/acme/1")
    assert await storage.stat("files/acme/1") == before
    await storage.write("files/acme/1", pieces(b"two"))
    assert (await storage.stat("files/acme/1")).mark != before.mark


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a//b", ".hidden", "a b", ""])
async def test_names_stay_below(storage: FsspecStorage, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await storage.stat(name)


async def test_an_s3_that_is_away_is_told() -> None:
    storage = open_storage(settings_of_s3(f"http://127.0.0.1:{free_port('127.0.0.1')}"))
    with pytest.raises(StorageDown) as caught:
        await storage.write("files/acme/1", pieces(b"x"))
    assert caught.value.retry_after_s > 0
    await storage.close()


async def test_an_s3_that_does_not_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        settings = settings_of_s3(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        storage = open_storage(msgspec.structs.replace(settings, timeout_s=0.5))
        with pytest.raises(StorageDown):
            await storage.stat("files/acme/1")
        await storage.close()


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file where a folder should be")
    storage = open_storage(FilesSettings(url=str(tmp_path / "files")))
    with pytest.raises(StorageDown):
        await storage.write("files/acme/1", pieces(b"x"))
    await storage.close()


@pytest.mark.parametrize("url", ["nothing://x", "s3://bucket"])
def test_wrong_settings_are_told(url: str) -> None:
    with pytest.raises(SettingsError):
        open_storage(FilesSettings(url=url, options="[]"))


async def test_a_batch_over_s3(s3_url: str, tmp_path: Path) -> None:
    settings = settings_of_s3(s3_url)
    storage = open_storage(settings)
    if not storage._fs.exists("bucket"):
        storage._fs.mkdir("bucket")
    async with MainPath(tmp_path) as path:
        path.env |= {"INFERBUS_FILES_URL": settings.url, "INFERBUS_FILES_OPTIONS": settings.options}
        await path.gateway()
        await path.worker(simulator_itl_s=0.001)
        await path.batch(chunk_rows=16)
        async with path.client() as client:
            file = await client.files.create(file=("in.jsonl", b"\n".join(lines(60))), purpose="batch")
            made = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )

            async def is_over() -> bool:
                return (await client.batches.retrieve(made.id)).status == "completed"

            await eventually(is_over, within_s=90)
            done = await client.batches.retrieve(made.id)
            assert done.output_file_id is not None
            assert len((await client.files.content(done.output_file_id)).content.splitlines()) == 60
            await client.files.delete(file.id)
            names = sorted(body.name for body in await storage.bodies("files/dev"))
            assert names == [f"files/dev/{done.output_file_id}"]
    await storage.delete_below("files")
    await storage.close()
