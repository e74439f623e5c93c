"""/v1/vector_stores through the ordinary `openai` client; and `inferbus vectors` as somebody types it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from tests import nursery
from tests.main_path import MainPath

MODEL, OTHER = "words", "other-words"
BEARS, OWLS = "Brown bears catch salmon in the river.\n", "Owls hunt mice at night.\n"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path_factory.mktemp("stores")) as path:
        await path.gateway()
        await path.embedder(MODEL, OTHER)
        await path.vectors()
        yield path


@pytest_asyncio.fixture(loop_scope="module")
async def client(path: MainPath) -> AsyncIterator[AsyncOpenAI]:
    async with path.client() as client:
        yield client


async def uploaded(client: AsyncOpenAI, name: str, data: bytes) -> str:
    return (await client.files.create(file=(name, data), purpose="assistants")).id


async def test_a_store_of_files(client: AsyncOpenAI) -> None:
    bears, owls = await uploaded(client, "bears.md", BEARS.encode()), await uploaded(client, "owls.md", OWLS.encode())
    store = await client.vector_stores.create(name="zoo", file_ids=[bears], metadata={"team": "a"})
    assert (store.name, store.metadata, store.file_counts.total) == ("zoo", {"team": "a"}, 1)
    put = await client.vector_stores.files.create_and_poll(
        owls, vector_store_id=store.id, attributes={"kind": "bird", "legs": 2}, poll_interval_ms=100
    )
    assert (put.status, put.last_error, put.attributes) == ("completed", None, {"kind": "bird", "legs": 2})
    await client.vector_stores.files.poll(bears, vector_store_id=store.id, poll_interval_ms=100)
    found = await client.vector_stores.search(store.id, query="salmon in a river", max_num_results=1)
    (hit,) = found.data
    assert (hit.file_id, hit.filename, hit.content[0].text) == (bears, "bears.md", BEARS)
    birds = {"type": "eq", "key": "kind", "value": "bird"}
    found = await client.vector_stores.search(store.id, query="salmon", filters=birds)  # type: ignore[arg-type]  # a plain dict
    assert [one.file_id for one in found.data] == [owls]
    text = await client.vector_stores.files.content(owls, vector_store_id=store.id)
    assert [one.text async for one in text] == [OWLS]
    told = await client.vector_stores.retrieve(store.id)
    assert (told.status, told.file_counts.completed, told.usage_bytes) == ("completed", 2, len(BEARS) + len(OWLS))
    assert {one.id async for one in client.vector_stores.files.list(store.id)} == {bears, owls}
    await client.vector_stores.files.delete(owls, vector_store_id=store.id)
    found = await client.vector_stores.search(store.id, query="owls hunt mice")
    assert {one.file_id for one in found.data} == {bears}
    renamed = await client.vector_stores.update(store.id, name="den")
    assert renamed.name == "den"
    assert store.id in [one.id async for one in client.vector_stores.list()]
    assert (await client.vector_stores.delete(store.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.retrieve(store.id)
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.search(store.id, query="bears")


async def test_what_is_no_text_fails_and_says_why(client: AsyncOpenAI) -> None:
    good = await uploaded(client, "good.txt", b"a text\n")
    image = await uploaded(client, "image.png", b"\x89PNG\r\n\x1a\n\xff\xfe")
    store = await client.vector_stores.create()
    batch = await client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[good, image], poll_interval_ms=100
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 1, 1)
    file = await client.vector_stores.files.retrieve(image, vector_store_id=store.id)
    assert file.last_error is not None
    assert (file.status, file.last_error.code) == ("failed", "unsupported_file")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.vector_stores.files.create(store.id, file_id="file-none")
    assert caught.value.param == "file_id"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.vector_stores.search(store.id, query=" ")
    assert caught.value.param == "query"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.vector_stores.create(extra_body={"model": "no-such-model"})
    assert caught.value.param == "model"


async def test_as_somebody_types_it(path: MainPath, tmp_path: Path) -> None:
    env = {"INFERBUS_URL": path.url, "INFERBUS_API_KEY": path.key, "COLUMNS": "160", "PATH": "/usr/bin"}
    rows = [{"id": n, "text": f"{BEARS} number{n}", "lang": "en" if n % 2 else "de"} for n in range(300)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "empty", "text": ""}]))

    async def typed(*arguments: str) -> tuple[int, str]:
        done = await asyncio.to_thread(nursery.command, "vectors", *arguments, env=env)
        return done.returncode, done.stdout + done.stderr

    assert (await typed("create", "typed", "--model", MODEL, "--field", "lang"))[0] == 0
    code, said = await typed("index", "typed", str(source), "--batch", "100")
    assert code == 3
    assert "300 of 301 documents indexed" in said
    assert "row 301, empty" in said
    code, said = await typed("search", "typed", "number7", "--filter", '{"type":"eq","key":"lang","value":"en"}')
    assert code == 0
    assert said.splitlines()[0].endswith(" 7")
    code, said = await typed("reindex", "typed", "--model", OTHER)
    assert (code, said.splitlines()[-1]) == (0, f"typed: {OTHER}, generation 1")
    code, said = await typed("stats", "typed")
    assert code == 0
    assert "300" in said
    assert OTHER in said
    assert "empty" in (await typed("dead-letters", "list", "typed"))[1]
    assert "1 are in the queue again" in (await typed("dead-letters", "redrive", "typed"))[1]
    assert (await typed("watch", "set", "bad", "--threshold", "0.8", "--collection", "typed"))[0] == 0
    code, said = await typed("watch", "match", "bad", f"{BEARS} number8", "--json")
    assert (code, json.loads(said.splitlines()[0])["item"]) == (3, "8")
    assert (await typed("delete", "typed"))[0] == 0
    code, said = await typed("search", "typed", "a")
    assert (code, said) == (1, "inferbus: there is no collection `typed`\n")
