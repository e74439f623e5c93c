"""What the doors of batches take and refuse, without anybody who works on the jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from openai import AsyncOpenAI
from tests.main_path import MODEL, MainPath

from inferbus.admission.keys import make_key, store_key
from inferbus.batch.job_book import JobBook
from inferbus.contracts.batch import COMPLETED, FAILED, Counts, DeadRow, JobRecord
from inferbus.contracts.files import FileRecord
from inferbus.files.book import FileBook
from inferbus.files.fsspec_storage import open_storage
from inferbus.files.settings import FilesSettings
from inferbus.testing import eventually

CHAT = "/v1/chat/completions"
LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "simulator"}}\n'


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.gateway()
        yield path


@pytest.fixture
async def client(path: MainPath) -> AsyncIterator[AsyncOpenAI]:
    async with path.client() as client:
        yield client


@pytest.fixture
async def http(path: MainPath) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=path.url, headers={"authorization": f"Bearer {path.key}"}) as http:
        yield http


async def uploaded(client: AsyncOpenAI, body: bytes = LINE) -> str:
    return (await client.files.create(file=("in.jsonl", body), purpose="batch")).id


async def known(client: AsyncOpenAI) -> AsyncOpenAI:
    """Wait until the gateway knows a client's key."""

    async def is_known() -> bool:
        try:
            await client.models.list()
        except openai.AuthenticationError:
            return False
        return True

    await eventually(is_known)
    return client


async def test_a_batch_is_begun_and_cancelled(client: AsyncOpenAI) -> None:
    file = await uploaded(client)
    made = await client.batches.create(
        input_file_id=file, endpoint=CHAT, completion_window="24h", metadata={"who": "me"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    assert (made.object, made.status, made.endpoint, made.input_file_id) == ("batch", "validating", CHAT, file)
    assert made.expires_at == made.created_at + 86_400
    assert made.metadata == {"who": "me"}
    assert (made.errors, made.output_file_id, made.error_file_id) == (None, None, None)
    assert made.request_counts is not None
    assert made.request_counts.total == 0
    assert await client.batches.retrieve(made.id) == made
    assert [one async for one in client.batches.list()] == [made]
    gone = await client.batches.cancel(made.id)
    assert (gone.status, gone.cancelled_at is not None) == ("cancelled", True)
    assert (await client.batches.cancel(made.id)).status == "cancelled"


async def test_a_batch_is_its_tenants(path: MainPath, client: AsyncOpenAI) -> None:
    file = await uploaded(client)
    made = await client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    async with path.client(api_key=await path.key_of("beta")) as other:
        await known(other)
        assert [one async for one in other.batches.list()] == []
        for ask in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await other.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
        assert caught.value.param == "input_file_id"


async def test_pages_newest_first(client: AsyncOpenAI) -> None:
    file = await uploaded(client)
    made = [
        (await client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")).id for _ in range(5)
    ]
    page = await client.batches.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert [one.id async for one in client.batches.list(limit=2)] == made[::-1]


IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("endpoint", {"endpoint": "/v1/images/generations"}),
    ("endpoint", {"endpoint": ""}),
    ("input_file_id", {"input_file_id": "file-000000000000"}),
    ("input_file_id", {"input_file_id": "../x"}),
    ("completion_window", {"completion_window": "soon"}),
    ("completion_window", {"completion_window": "31d"}),
    ("completion_window", {"completion_window": "0h"}),
    ("metadata", {"metadata": {str(n): "x" for n in range(17)}}),
    ("metadata.k", {"metadata": {"k": "x" * 513}}),
    ("output_expires_after.seconds", {"output_expires_after": {"anchor": "created_at", "seconds": 5}}),
    ("output_expires_after.anchor", {"output_expires_after": {"anchor": "now", "seconds": 5000}}),
    ("priority", {"priority": 101}),
    ("priority", {"priority": "high"}),
    ("quiet_hours", {"quiet_hours": "25:00-26:00"}),
]


async def test_what_cannot_be_is_refused(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    wanted = {"input_file_id": await uploaded(client), "endpoint": CHAT, "completion_window": "24h"}
    for param, change in IMPOSSIBLE:
        answer = await http.post("/v1/batches", json=wanted | change)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
    assert (await http.get("/v1/batches")).json()["data"] == []


async def test_an_empty_file_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="empty"):
        await client.batches.create(input_file_id=await uploaded(client, b""), endpoint=CHAT, completion_window="24h")


ENTITLED: list[tuple[dict[str, Any], dict[str, str], int]] = [
    ({"lanes": ("interactive",)}, {}, 403),
    ({"endpoints": ("embeddings",)}, {}, 403),
    ({"models": ("other",)}, {"model": MODEL}, 403),
    ({}, {"model": "unknown"}, 404),
    ({}, {"model": MODEL, "endpoint": "/v1/embeddings"}, 422),
    ({}, {"model": MODEL}, 200),
]


async def test_entitlements(path: MainPath, client: AsyncOpenAI) -> None:
    file = await uploaded(client)
    bus = await path.nats.connect("admin")
    for fields, extra, status in ENTITLED:
        key, stored = make_key("dev", b"pepper")
        await store_key(bus, msgspec.structs.replace(stored, **fields))
        async with path.client(api_key=key) as narrow:
            await known(narrow)
        async with httpx.AsyncClient(base_url=path.url, headers={"authorization": f"Bearer {key}"}) as http:
            wanted = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"} | extra
            answer = await http.post("/v1/batches", json=wanted)
            assert answer.status_code == status, answer.text
            uploads = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", LINE)})
            assert uploads.status_code == (403 if "lanes" in fields else 200)
    await bus.close()


async def test_an_idempotency_key_begins_one_batch(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    wanted = {"input_file_id": await uploaded(client), "endpoint": CHAT, "completion_window": "24h"}
    keyed = {"idempotency-key": "one"}
    first = await http.post("/v1/batches", json=wanted, headers=keyed)
    again = await http.post("/v1/batches", json=wanted, headers=keyed)
    assert first.json() == again.json()
    other = await http.post("/v1/batches", json=wanted | {"priority": 5}, headers=keyed)
    assert other.status_code == 409
    assert len((await http.get("/v1/batches")).json()["data"]) == 1


async def test_pause_and_resume(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    file = await uploaded(client)
    made = await client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    rests = (await http.post(f"/v1/batches/{made.id}/pause")).json()
    assert (rests["status"], rests["paused"]["reason"]) == ("validating", "user")
    assert (await http.post(f"/v1/batches/{made.id}/resume")).json()["paused"] is None
    await client.batches.cancel(made.id)
    assert (await http.post(f"/v1/batches/{made.id}/pause")).status_code == 409
    assert (await http.post(f"/v1/batches/{made.id}/resume")).status_code == 409
    assert (await http.post(f"/v1/batches/{made.id}/retry-failed")).status_code == 409
    assert (await http.post("/v1/batches/batch_nothing/pause")).status_code == 404


class Ended:
    """A job that has ended with dead letters, as a coordinator would leave it."""

    rows = (
        DeadRow(line=2, custom_id="b", request_id="r-2", code="invalid_request", message="no", original='{"n": 2}'),
        DeadRow(line=5, custom_id=None, request_id="r-5", code="too_large", message="long", original=""),
        DeadRow(
            line=7, custom_id="g", request_id="r-7", code="engine", message="bad", attempts=3, status=400,
            body=msgspec.Raw(b'{"error": 1}'), original='{"n": 7}',
        ),
    )  # fmt: skip

    def __init__(self, path: MainPath) -> None:
        self._path = path

    async def make(self) -> str:
        bus = await self._path.nats.connect("operator")
        storage = open_storage(FilesSettings(url=str(self._path.files)))
        body = "files/dev/file-dead0000"

        async def pieces() -> AsyncIterator[bytes]:
            for row in self.rows:
                yield msgspec.json.encode(row) + b"\n"

        written = await storage.write(body, pieces())
        await FileBook(bus, storage).add(
            FileRecord(
                id="file-dead0000",
                tenant="dev",
                purpose="batch_dead_letters",
                filename="x",
                bytes=written.bytes,
                sha256=written.sha256,
                body=body,
                created_at=1,
            )
        )
        job = JobRecord(
            id="batch_ended", tenant="dev", endpoint=CHAT, input_file_id="file-in000000", created=1.0, expires_at=2.0,
            state=COMPLETED, counts=Counts(total=9, completed=6, failed=3), dead_file_id="file-dead0000",
            since={COMPLETED: 3.0}, priority=7,
        )  # fmt: skip
        await JobBook(bus).create(job)
        await storage.close()
        await bus.close()
        return job.id


async def test_dead_letters_are_seen_and_asked_again(
    path: MainPath, client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    job = await Ended(path).make()
    listed = (await http.get(f"/v1/batches/{job}/dead-letters", params={"limit": 2})).json()
    assert ([one["line"] for one in listed["data"]], listed["has_more"]) == ([2, 5], True)
    rest = (await http.get(f"/v1/batches/{job}/dead-letters", params={"after": 5})).json()
    assert ([one["line"] for one in rest["data"]], rest["has_more"]) == ([7], False)
    one = (await http.get(f"/v1/batches/{job}/dead-letters/7")).json()
    assert (one["code"], one["attempts"], one["status"], one["body"]) == ("engine", 3, 400, {"error": 1})
    assert (await http.get(f"/v1/batches/{job}/dead-letters/3")).status_code == 404

    every = (await http.post(f"/v1/batches/{job}/retry-failed")).json()
    assert (every["retry_of"], every["status"], every["priority"]) == (job, "validating", 7)
    edited = {"lines": [2], "edited": [{"line": 7, "original": '{"n": "seven"}'}]}
    some = (await http.post(f"/v1/batches/{job}/retry-failed", json=edited)).json()
    assert (await client.files.content(some["input_file_id"])).content == b'{"n": 2}\n{"n": "seven"}\n'
    for wrong in ({"lines": [3]}, {"lines": [5]}, {"edited": [{"line": 7, "original": "a\nb"}]}):
        answer = await http.post(f"/v1/batches/{job}/retry-failed", json=wrong)
        assert answer.status_code == 400, answer.text


async def test_a_failed_batch_says_why(path: MainPath, client: AsyncOpenAI) -> None:
    bus = await path.nats.connect("operator")
    job = JobRecord(
        id="batch_failed", tenant="dev", endpoint=CHAT, input_file_id="file-in000000", created=1.0, expires_at=2.0,
        state=FAILED, since={FAILED: 3.0}, errors=[],
    )  # fmt: skip
    await JobBook(bus).create(job)
    await bus.close()
    found = await client.batches.retrieve(job.id)
    assert (found.status, found.failed_at) == ("failed", 3)


def lines(count: int) -> bytes:
    """Lines of an input, of which every 50th names a model nobody knows."""
    return b"".join(
        msgspec.json.encode(
            {
                "custom_id": f"row-{n}",
                "method": "POST",
                "url": CHAT,
                "body": {
                    "model": "nobody" if n % 50 == 0 else MODEL,
                    "max_tokens": 4,
                    "messages": [{"role": "user", "content": f"say {n}"}],
                },
            }
        )
        + b"\n"
        for n in range(1, count + 1)
    )


async def test_from_upload_to_output_with_the_openai_client(path: MainPath, client: AsyncOpenAI) -> None:
    await path.worker(simulator_itl_s=0.001)
    await path.batch(chunk_rows=32)
    file = await client.files.create(file=("in.jsonl", lines(200)), purpose="batch")
    made = await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )  # fmt: skip

    async def is_over() -> bool:
        return (await client.batches.retrieve(made.id)).status == "completed"

    await eventually(is_over, within_s=60)
    done = await client.batches.retrieve(made.id)
    counts = done.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (200, 196, 4)
    assert None not in (done.in_progress_at, done.finalizing_at, done.completed_at, done.usage)
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    answers = msgspec.json.decode(
        b"[" + (await client.files.content(done.output_file_id)).content.strip().replace(b"\n", b",") + b"]"
    )
    assert [one["custom_id"] for one in answers] == [f"row-{n}" for n in range(1, 201) if n % 50]
    assert all(one["response"]["body"]["choices"][0]["message"]["content"] for one in answers)
    faults = [msgspec.json.decode(one) for one in (await client.files.content(done.error_file_id)).content.splitlines()]
    assert [one["custom_id"] for one in faults] == ["row-50", "row-100", "row-150", "row-200"]
    assert {one["response"]["status_code"] for one in faults} == {404}
    output = await client.files.retrieve(done.output_file_id)
    assert (output.purpose, output.expires_at) == ("batch_output", pytest.approx(output.created_at + 7200, abs=60))
    assert done.usage is not None
    assert done.usage.output_tokens == sum(one["response"]["body"]["usage"]["completion_tokens"] for one in answers)
