from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from tests.main_path import MainPath

from inferbus.files.settings import FilesSettings
from inferbus.testing import eventually

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'
LIMIT = 3 * 1024 * 1024


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        path.env["INFERBUS_FILES_MAX_FILE_BYTES"] = str(LIMIT)
        path.env["INFERBUS_FILES_UPLOAD_IDLE_S"] = "1"
        await path.gateway()
        yield path


@pytest.fixture
async def client(path: MainPath) -> AsyncIterator[AsyncOpenAI]:
    async with path.client() as client:
        yield client


def bodies(path: MainPath) -> list[Path]:
    return [one for one in path.files.rglob("*") if one.is_file()]


async def test_a_file_comes_and_goes(path: MainPath, client: AsyncOpenAI) -> None:
    made = await client.files.create(file=("in.jsonl", LINES), purpose="batch")
    assert (made.object, made.bytes, made.filename, made.purpose, made.status) == (
        "file", len(LINES), "in.jsonl", "batch", "processed",
    )  # fmt: skip
    assert made.expires_at == made.created_at + FilesSettings().default_expiry_s
    assert await client.files.retrieve(made.id) == made
    assert (await client.files.content(made.id)).content == LINES
    assert [one async for one in client.files.list()] == [made]
    assert (await client.files.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.delete(made.id)
    assert bodies(path) == []


async def test_a_file_is_its_tenants(path: MainPath, client: AsyncOpenAI) -> None:
    made = await client.files.create(file=("in.jsonl", LINES), purpose="batch")
    async with path.client(api_key=await path.key_of("beta")) as other:

        async def is_known() -> bool:
            try:
                return [one async for one in other.files.list()] == []
            except openai.AuthenticationError:
                return False

        await eventually(is_known)
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
    assert (await client.files.content(made.id)).content == LINES


async def test_pages(client: AsyncOpenAI) -> None:
    made = [await client.files.create(file=(f"{n}.jsonl", LINES), purpose="batch") for n in range(5)]
    first = await client.files.list(limit=2, order="asc")
    assert len(first.data) == 2
    assert first.has_more
    ids = [one.id async for one in client.files.list(limit=2, order="asc")]
    assert sorted(ids) == sorted(one.id for one in made)
    newest_first = [one.id async for one in client.files.list(limit=2)]
    assert newest_first == ids[::-1]
    assert [one async for one in client.files.list(purpose="batch_output")] == []
    for wrong in ({"after": "file-nothing000"}, {"limit": 0}, {"limit": 10_001}, {"order": "sideways"}):
        with pytest.raises(openai.BadRequestError):
            await client.files.list(**wrong)  # type: ignore[arg-type]  # each a query of its own


async def test_expiry_is_told_and_checked(client: AsyncOpenAI) -> None:
    made = await client.files.create(
        file=("in.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="3600"):
        await client.files.create(
            file=("in.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 10}
        )


async def test_what_is_no_upload(path: MainPath, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.create(file=("in.jsonl", LINES), purpose="vision")
    assert caught.value.param == "purpose"
    headers = {"authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=path.url, headers=headers) as http:
        for body in (
            {"files": {"file": ("a", LINES)}},
            {"data": {"purpose": "batch"}, "files": {"other": ("a", LINES)}},
            {"data": {"purpose": "batch"}, "files": [("file", ("a", LINES)), ("file", ("b", LINES))]},
            {"json": {"purpose": "batch"}},
            {"content": b"--x\r\nhello", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            {"content": b"", "headers": {"content-type": "multipart/form-data"}},
        ):
            answer = await http.post("/v1/files", **body)  # type: ignore[arg-type]  # each a body of its own
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["type"] == "invalid_request_error"
        answer = await http.post("/v1/files", headers={"authorization": "Bearer no"}, files={"file": ("a", LINES)})
        assert answer.status_code == 401
    assert bodies(path) == []


async def test_the_purpose_may_come_last(path: MainPath) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + LINES
        + b'\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )  # fmt: skip
    headers = {"authorization": f"Bearer {path.key}", "content-type": "multipart/form-data; boundary=x"}
    async with httpx.AsyncClient(base_url=path.url, headers=headers) as http:
        answer = await http.post("/v1/files", content=form)
    assert answer.status_code == 200
    assert answer.json()["bytes"] == len(LINES)


async def test_too_large_has_both_numbers(path: MainPath, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.files.create(file=("in.jsonl", b"x" * (LIMIT + 100_000)), purpose="batch")
    assert caught.value.status_code == 413
    assert str(LIMIT) in caught.value.message
    with pytest.raises(openai.APIStatusError) as caught:  # as little too large as cannot be told before it came
        await client.files.create(file=("in.jsonl", b"x" * (LIMIT + 1)), purpose="batch")
    assert caught.value.status_code == 413
    assert (str(LIMIT) in caught.value.message, str(LIMIT + 1) in caught.value.message) == (True, True)
    assert bodies(path) == []
    made = await client.files.create(file=("in.jsonl", b"x" * LIMIT), purpose="batch")
    assert made.bytes == LIMIT


def form_of(size: int) -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    for _ in range(size // 65_536):
        yield b"y" * 65_536


async def test_an_upload_that_stops_leaves_nothing(path: MainPath) -> None:
    headers = {"authorization": f"Bearer {path.key}", "content-type": "multipart/form-data; boundary=x"}

    async def stopping() -> AsyncIterator[bytes]:
        for piece in form_of(LIMIT // 2):
            yield piece
        await eventually(lambda: bool(bodies(path)))
        raise ConnectionResetError

    async with httpx.AsyncClient(base_url=path.url, headers=headers) as http:
        with pytest.raises(ConnectionResetError):
            await http.post("/v1/files", content=stopping())
    await eventually(lambda: not bodies(path))


async def test_an_upload_that_says_nothing_more_is_given_up(path: MainPath) -> None:
    host, port = path.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {path.key}\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    writer.write(head.encode() + b"".join(form_of(0)))
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"nothing of the upload came for 1 seconds" in answer
    writer.close()
    await writer.wait_closed()
    assert bodies(path) == []


async def test_ranges(path: MainPath, client: AsyncOpenAI) -> None:
    body = bytes(range(256)) * 8192  # more than one piece
    made = await client.files.create(file=("in.jsonl", body), purpose="batch")
    async with httpx.AsyncClient(base_url=path.url, headers={"authorization": f"Bearer {path.key}"}) as http:
        for wanted, start, end in (
            ("bytes=0-9", 0, 10),
            ("bytes=100-", 100, len(body)),
            ("bytes=-7", len(body) - 7, len(body)),
            ("bytes=1048570-1048580", 1048570, 1048581),
        ):
            answer = await http.get(f"/v1/files/{made.id}/content", headers={"range": wanted})
            assert answer.status_code == 206
            assert answer.content == body[start:end]
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(body)}"
        for ignored in ("lines=1-2", "bytes=5-1", "bytes=0-1,4-5"):
            answer = await http.get(f"/v1/files/{made.id}/content", headers={"range": ignored})
            assert (answer.status_code, hashlib.sha256(answer.content).digest()) == (200, hashlib.sha256(body).digest())
        answer = await http.get(f"/v1/files/{made.id}/content", headers={"range": f"bytes={len(body)}-"})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(body)}")


async def test_a_content_that_is_gone_is_told(path: MainPath, client: AsyncOpenAI) -> None:
    made = await client.files.create(file=("in.jsonl", LINES), purpose="batch")
    bodies(path)[0].unlink()
    with pytest.raises(openai.NotFoundError, match="gone"):
        await client.files.content(made.id)


async def test_a_storage_that_is_down_is_a_503(path: MainPath, client: AsyncOpenAI) -> None:
    path.files.write_text("no folder")
    with pytest.raises(openai.InternalServerError) as caught:
        await client.files.create(file=("in.jsonl", LINES), purpose="batch")
    assert caught.value.status_code == 503
    assert caught.value.code == "storage_down"
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_an_organisation_has_so_many_files_and_bytes(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        path.env["INFERBUS_FILES_MAX_TENANT_FILES"] = "2"
        path.env["INFERBUS_FILES_MAX_TENANT_BYTES"] = "100"
        await path.gateway()
        async with path.client() as client, path.client(api_key=await path.key_of("beta")) as other:
            first = await client.files.create(file=("a", b"x" * 60), purpose="batch")
            with pytest.raises(openai.APIStatusError, match="60 bytes, with 60 more") as refused:
                await client.files.create(file=("b", b"x" * 60), purpose="batch")
            assert refused.value.status_code == 413
            await client.files.create(file=("b", b"x" * 40), purpose="batch")
            with pytest.raises(openai.APIStatusError, match="has 2 files, the limit is 2"):
                await client.files.create(file=("c", b"x"), purpose="batch")
            await other.files.create(file=("a", b"x" * 60), purpose="batch")
            await client.files.delete(first.id)
            await client.files.create(file=("c", b"x" * 60), purpose="batch")
            assert len(bodies(path)) == 3
