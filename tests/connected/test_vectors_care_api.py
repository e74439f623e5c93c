"""What keeps collections over HTTP: aliases, backups, erasing; files of vector stores cut as each wants; a tenant's end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.main_path import MainPath

from inferbus import routes
from inferbus.admission import revisions
from inferbus.codec import to_json
from inferbus.contracts.vector_stores import StoreRecord
from inferbus.testing import eventually
from inferbus_gateway.vector_stores_door import VectorStoresDoor

MODEL = "words"
BEARS, OWLS = "brown bears catch salmon in the river", "owls hunt mice at night"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MainPath]:
    folder: Path = tmp_path_factory.mktemp("care")
    async with MainPath(folder) as path:
        await path.gateway()
        await path.embedder(MODEL)
        await path.vectors()
        yield path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(path: MainPath) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=f"{path.url}/v1", headers=headers, timeout=30) as client:
        yield client


async def done(http: httpx.AsyncClient, method: str, url: str, **options: Any) -> dict[str, Any]:
    answer = await http.request(method, url, **options)
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def made(http: httpx.AsyncClient, name: str, *documents: dict[str, Any]) -> None:
    await done(http, "POST", "/vectors/collections", json={"name": name, "model": MODEL, "fields": [{"name": "kind"}]})
    told = await done(http, "POST", f"/vectors/{name}/documents", json={"documents": list(documents), "wait_s": 30})
    assert told["indexed"] == len(documents)


async def found(http: httpx.AsyncClient, name: str, text: str) -> list[str]:
    answer = await done(http, "POST", f"/vectors/{name}/search", json={"text": text})
    return [hit["id"] for hit in answer["data"]]


ZOO = [
    {"id": "bears", "text": BEARS, "payload": {"kind": "mammal"}, "version": 7},
    {"id": "owls", "text": OWLS, "payload": {"kind": "bird"}, "version": 7},
]


async def test_a_backup_is_listed_and_becomes_a_collection_again(http: httpx.AsyncClient) -> None:
    await made(http, "zoo", *ZOO)
    first = await done(http, "POST", "/vectors/collections/zoo/backup")
    assert (first["collection"], first["chunks"]) == ("zoo", 2)
    second = await done(http, "POST", "/vectors/collections/zoo/backup")
    listed = await done(http, "GET", "/vectors/backups", params={"collection": "zoo"})
    assert {one["file_id"] for one in listed["data"]} == {first["file_id"], second["file_id"]}
    assert {(one["collection"], one["bytes"]) for one in listed["data"]} == {("zoo", first["bytes"])}
    page = await done(http, "GET", "/vectors/backups", params={"limit": 1})
    rest = await done(http, "GET", "/vectors/backups", params={"after": page["data"][0]["file_id"]})
    assert page["has_more"]
    assert len(rest["data"]) == 1
    assert (await done(http, "GET", "/vectors/backups", params={"collection": "another"}))["data"] == []

    restore = {"name": "again", "file_id": first["file_id"]}
    assert (await done(http, "POST", "/vectors/collections/restore", json=restore))["name"] == "again"
    assert await found(http, "again", BEARS) == ["bears", "owls"]
    taken = await http.post("/vectors/collections/restore", json=restore)
    assert taken.status_code == 409
    unknown = await http.post("/vectors/collections/restore", json={"name": "more", "file_id": "file-none"})
    assert unknown.status_code == 404
    refused = await http.post("/vectors/collections", json={"name": "backups", "model": MODEL})
    assert refused.status_code == 400


async def test_an_alias_points_elsewhere_at_once(http: httpx.AsyncClient) -> None:
    await made(http, "one", {"id": "a", "text": BEARS})
    await made(http, "two", {"id": "b", "text": BEARS})
    for collection, hit in (("one", "a"), ("two", "b")):
        told = await done(http, "PUT", "/vectors/aliases/latest", json={"collection": collection})
        assert (told["alias"], told["collection"]) == ("latest", collection)

        async def answers(hit: str = hit) -> bool:
            return await found(http, "latest", BEARS) == [hit]

        await eventually(answers, within_s=10)
    assert (await http.put("/vectors/aliases/one", json={"collection": "two"})).status_code == 409
    assert (await http.put("/vectors/aliases/other", json={"collection": "nothing"})).status_code == 404
    await done(http, "DELETE", "/vectors/aliases/latest")

    async def is_gone() -> bool:
        return (await http.post("/vectors/latest/search", json={"text": BEARS})).status_code == 404

    await eventually(is_gone, within_s=10)


async def test_what_is_erased_by_a_filter_stays_out(http: httpx.AsyncClient) -> None:
    await made(http, "erased", *ZOO)
    birds = {"filter": {"type": "eq", "key": "kind", "value": "bird"}}
    assert (await done(http, "POST", "/vectors/erased/erase", json=birds))["chunks"] == 1
    late = await done(http, "POST", "/vectors/erased/documents", json={"documents": ZOO, "wait_s": 30})
    assert (late["indexed"], late["stale"]) == (1, 1)
    assert await found(http, "erased", OWLS) == ["bears"]
    newer = [ZOO[1] | {"version": 8}]
    assert (await done(http, "POST", "/vectors/erased/documents", json={"documents": newer, "wait_s": 30}))[
        "indexed"
    ] == 1
    assert (await done(http, "POST", "/vectors/erased/erase", json={"ids": ["owls", "bears"]}))["chunks"] == 2
    assert await found(http, "erased", OWLS) == []
    unsaid = await http.post("/vectors/erased/erase", json={})
    assert unsaid.status_code == 400


async def uploaded(http: httpx.AsyncClient, text: str) -> str:
    files = {"file": ("a.txt", text.encode())}
    return str((await done(http, "POST", "/files", data={"purpose": "assistants"}, files=files))["id"])


async def chunks_of(http: httpx.AsyncClient, store: str, file_id: str, **wanted: Any) -> list[str]:
    await done(http, "POST", f"/vector_stores/{store}/files", json={"file_id": file_id} | wanted)

    async def is_in() -> bool:
        return bool((await done(http, "GET", f"/vector_stores/{store}/files/{file_id}"))["status"] == "completed")

    await eventually(is_in, within_s=30)
    content = await done(http, "GET", f"/vector_stores/{store}/files/{file_id}/content")
    return [one["text"] for one in content["data"]]


async def test_files_of_a_store_are_cut_as_each_wants(http: httpx.AsyncClient) -> None:
    text = " ".join(f"word{n:04}" for n in range(180))  # 1619 characters
    sizes = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}
    static = {"type": "static", "static": sizes}
    store = (await done(http, "POST", "/vector_stores", json={"name": "s", "model": MODEL}))["id"]
    auto, fine = [await uploaded(http, text + end) for end in (" a", " b")]
    whole = await chunks_of(http, store, auto)
    assert 400 < max(map(len, whole)) <= 600
    cut = await chunks_of(http, store, fine, chunking_strategy=static)
    assert 300 < max(map(len, cut)) <= 400
    assert " ".join(cut) == f"{text} b"
    told = await done(http, "GET", f"/vector_stores/{store}/files/{fine}")
    assert told["chunking_strategy"] == static
    assert max(map(len, await chunks_of(http, store, auto, chunking_strategy=static))) <= 400


async def test_a_store_whose_time_is_over_is_emptied_and_refuses(path: MainPath, http: httpx.AsyncClient) -> None:
    wanted = {"name": "old", "model": MODEL, "expires_after": {"anchor": "last_active_at", "days": 1}}
    store = (await done(http, "POST", "/vector_stores", json=wanted))["id"]
    file_id = await uploaded(http, OWLS)
    assert await chunks_of(http, store, file_id) == [OWLS]
    gateway = await path.nats.connect("gateway", name="expiring")
    try:
        key = routes.tenant_key("dev", store)
        held = await revisions.read(gateway, routes.KV_VECTOR_STORES, key)
        assert held.data is not None
        record = msgspec.json.decode(held.data, type=StoreRecord)
        long_ago = msgspec.structs.replace(record, active=time.time() - 2 * 86_400)
        assert await revisions.write(gateway, routes.KV_VECTOR_STORES, key, to_json(long_ago), held.revision)
        door = VectorStoresDoor(gateway, None, None)  # type: ignore[arg-type]  # neither is asked for here
        assert [await door.empty_expired(time.time()) for _ in range(2)] == [1, 0]
    finally:
        await gateway.close()
    told = await done(http, "GET", f"/vector_stores/{store}")
    assert (told["status"], told["file_counts"]["total"]) == ("expired", 0)
    assert (await http.get(f"/vector_stores/{store}/files/{file_id}")).status_code == 404
    for url, body in (("search", {"query": "owls"}), ("files", {"file_id": file_id})):
        refused = await http.post(f"/vector_stores/{store}/{url}", json=body)
        assert (refused.status_code, "expired" in refused.text) == (404, True)
    assert (await http.post(f"/vector_stores/{store}", json={"name": "young"})).status_code == 404
    assert (await done(http, "DELETE", f"/vector_stores/{store}"))["deleted"]


async def test_of_a_tenant_that_is_erased_nothing_is_left_but_files(http: httpx.AsyncClient) -> None:
    await made(http, "last", *ZOO)
    store = (await done(http, "POST", "/vector_stores", json={"name": "s", "model": MODEL}))["id"]
    file_id = await uploaded(http, BEARS)
    await chunks_of(http, store, file_id)
    assert (await http.post("/vectors/erase", json={"confirm": "another"})).status_code == 400
    assert (await done(http, "POST", "/vectors/erase", json={"confirm": "dev"}))["chunks"] >= 3
    left = await done(http, "GET", "/vectors/collections")
    assert (left["data"], left["aliases"]) == ([], {})
    assert (await done(http, "GET", "/vector_stores"))["data"] == []
    assert (await http.get(f"/vector_stores/{store}/files/{file_id}")).status_code == 404
    assert (await done(http, "GET", f"/files/{file_id}"))["id"] == file_id
