"""The doors to vectors: /v1/vectors, the command line, and the SDK, against a vector service with the simulator's words."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.main_path import MainPath

from inferbus import routes
from inferbus.bus.stored import read_stored
from inferbus.contracts.watchlists import WatchHit
from inferbus.errors import InvalidRequest, NotFound
from inferbus.pipeline import Pipeline
from inferbus.testing import eventually

MODEL, OTHER = "words", "other-words"
BEARS = "brown bears catch salmon in the river"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path(folder: Path) -> AsyncIterator[MainPath]:
    async with MainPath(folder) as path:
        await path.gateway()
        await path.embedder(MODEL, OTHER)
        await path.vectors()
        yield path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(path: MainPath) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {path.key}"}
    async with httpx.AsyncClient(base_url=f"{path.url}/v1/vectors", headers=headers, timeout=30) as client:
        yield client


async def made(http: httpx.AsyncClient, name: str, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/collections", json={"name": name} | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def indexed(http: httpx.AsyncClient, name: str, *documents: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post(f"/{name}/documents", json={"documents": list(documents), "wait_s": 30})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_documents_come_are_found_and_go(http: httpx.AsyncClient) -> None:
    one = await made(http, "zoo", model=MODEL, fields=[{"name": "kind"}])
    assert (one["dimension"], one["model"], one["state"]) == (64, MODEL, "ready")
    told = await indexed(
        http, "zoo",
        {"id": "bears", "text": BEARS, "payload": {"kind": "mammal", "legs": 4}},
        {"id": "owls", "text": "owls hunt mice at night", "payload": {"kind": "bird"}},
    )  # fmt: skip
    assert (told["accepted"], told["indexed"], told["faults"]) == (2, 2, [])
    found = (await http.post("/zoo/search", json={"text": "bears in a river", "limit": 1})).json()
    (hit,) = found["data"]
    assert (hit["id"], hit["payload"], hit["text"]) == ("bears", {"kind": "mammal", "legs": 4}, BEARS)
    only = {"text": "bears in a river", "filter": {"type": "eq", "key": "kind", "value": "bird"}}
    assert [hit["id"] for hit in (await http.post("/zoo/search", json=only)).json()["data"]] == ["owls"]
    stored = (await http.post("/zoo/documents/retrieve", json={"ids": ["owls"]})).json()["data"]
    assert [one["id"] for one in stored] == ["owls"]
    gone = await http.delete("/zoo/documents/bears", params={"wait_s": 30})
    assert gone.json()["deleted"] == 1

    async def is_settled() -> bool:  # a report goes out just before its message is acknowledged
        stats = (await http.get("/collections/zoo/stats")).json()
        return (stats["documents"], stats["waiting"]) == (1, 0)

    await eventually(is_settled)


async def test_bad_input_names_the_field_and_the_rest_is_indexed(path: MainPath, http: httpx.AsyncClient) -> None:
    await made(http, "mixed", dimension=3)
    told = await indexed(
        http, "mixed",
        {"id": "good", "vector": [1.0, 0.0, 0.0]},
        {"id": "short", "vector": [1.0]},
        {"id": "nothing"},
        {"id": "", "vector": [1.0, 0.0, 0.0]},
        {"id": "also good", "vector": [0.0, 1.0, 0.0]},
    )  # fmt: skip
    assert told["indexed"] == 2
    assert {fault["n"] for fault in told["faults"]} == {1, 2, 3}
    assert all(fault["code"] == "invalid_request" and fault["message"] for fault in told["faults"])
    bad = [
        ("/mixed/search", {"vector": [1.0]}, 400, "vector"),
        ("/mixed/search", {"vector": [1, 0, 0], "filter": {"type": "eq", "key": "x", "value": 1}}, 400, "x"),
        ("/mixed/search", {"vector": [1, 0, 0], "limt": 1}, 400, "limt"),
        ("/nowhere/search", {"vector": [1, 0, 0]}, 404, "collection"),
        ("/nowhere/documents", {"documents": [{"id": "a", "vector": [1]}], "wait_s": 10}, 404, "collection"),
        ("/mixed/documents", {"documents": []}, 400, "documents"),
        ("/mixed/documents", {"documents": [{"id": "a", "txt": "b"}]}, 400, "documents"),
        ("/collections", {"name": "watchlists", "dimension": 3}, 400, "name"),
        ("/collections", {"name": "a b", "dimension": 3}, 400, "collection"),
    ]  # fmt: skip
    for place, body, status, param in bad:
        answer = await http.post(place, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"].startswith(param)) == (status, True), (place, body, answer.text)
    answer = await http.post("/mixed/search", content=b'{"vector":[NaN,0,0]}')
    assert answer.status_code == 400
    async with httpx.AsyncClient(base_url=f"{path.url}/v1/vectors", timeout=30) as nobody:
        assert (await nobody.get("/collections")).status_code == 401
    beta = {"authorization": f"Bearer {await path.key_of('beta')}"}

    async def is_known() -> bool:
        return (await http.get("/collections", headers=beta)).status_code == 200

    await eventually(is_known)
    assert (await http.post("/mixed/search", json={"vector": [1, 0, 0]}, headers=beta)).status_code == 404


async def test_dead_letters_are_listed_and_redriven(http: httpx.AsyncClient) -> None:
    await made(http, "letters", dimension=2)
    await indexed(http, "letters", {"id": "long", "vector": [1.0, 0.0, 0.0]}, {"id": "empty", "text": ""})
    letters = (await http.get("/letters/dead-letters")).json()["data"]
    assert {one for letter in letters for one in letter["documents"]} == {"long", "empty"}
    assert all(letter["code"] == "invalid_request" and letter["reason"] for letter in letters)
    (place,) = [letter["place"] for letter in letters if letter["documents"] == ["long"]]
    mended = {"places": [place], "documents": [{"id": "long", "vector": [1.0, 0.0]}]}
    assert (await http.post("/letters/dead-letters/redrive", json=mended)).json()["letters"] == 1

    async def is_there() -> bool:
        return bool((await http.post("/letters/documents/retrieve", json={"ids": ["long"]})).json()["data"])

    await eventually(is_there)
    letters = (await http.get("/letters/dead-letters")).json()["data"]
    assert [letter["documents"] for letter in letters] == [["empty"]]


async def test_the_sdk_indexes_searches_and_matches(path: MainPath, http: httpx.AsyncClient) -> None:
    await made(http, "sdk", model=MODEL)
    async with path.producer() as client:
        documents = [{"id": f"d{n}", "text": f"{BEARS} number{n}", "payload": {"n": n}} for n in range(600)]
        report = await client.vectors.index("sdk", documents)
        assert report is not None
        assert (report.indexed, report.faults) == (600, [])
        found = await client.vectors.search("sdk", "number7", limit=1)
        assert msgspec.json.decode(found.hits[0].payload) == {"n": 7}
        with pytest.raises(NotFound):
            await client.vectors.index("nowhere", documents[:1])
        with pytest.raises(InvalidRequest, match="limit"):
            await client.vectors.search("sdk", "a", limit=0)


async def test_a_pipeline_indexes_rows(path: MainPath, http: httpx.AsyncClient, tmp_path: Path) -> None:
    await made(http, "rows", model=MODEL)
    source = tmp_path / "rows.jsonl"
    lines = [{"id": n, "text": f"row {n} of many", "lang": "en"} for n in range(50)] + [{"text": "has no id"}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pipeline = Pipeline.read(str(source)).index("rows").write(str(tmp_path / "out.jsonl"))
    assert "text into rows by id" in pipeline.explain()
    async with path.producer() as client:
        report = await pipeline.run_async(client)
    assert (report.written, report.failed) == (50, 1)
    assert (await http.get("/collections/rows/stats")).json()["documents"] == 50


async def test_a_watchlist_tells_what_is_near_its_items(path: MainPath, http: httpx.AsyncClient) -> None:
    await made(http, "posts", model=MODEL)
    wanted = {"name": "bad", "threshold": 0.8, "model": MODEL, "watched": ["posts"]}
    assert (await http.post("/watchlists", json=wanted)).json()["collection"] == "bad"
    await indexed(http, "bad", {"id": "i1", "text": "buy cheap pills online now", "payload": {"why": "spam"}})

    async def is_watched() -> bool:  # the service has heard of the list
        await indexed(http, "posts", {"id": "p1", "text": "BUY cheap pills online, now!"})
        return bool((await http.get("/watchlists/bad/hits")).json()["data"])

    await eventually(is_watched)
    await indexed(http, "posts", {"id": "p2", "text": "a walk along the river"})
    hits = (await http.get("/watchlists/bad/hits")).json()["data"]
    (hit,) = hits  # once, however often it was indexed
    assert (hit["item"], hit["document"], hit["collection"]) == ("i1", "p1", "posts")
    assert (hit["item_payload"], hit["excerpt"]) == ({"why": "spam"}, "BUY cheap pills online, now!")
    assert hit["score"] >= 0.8
    bus = await path.nats.connect("operator")
    facts = await read_stored(bus, routes.STREAM_EVENTS, routes.event("vectors", routes.FACT_WATCH_HIT))
    await bus.close()
    assert [json.loads(fact.data)["id"] for fact in facts] == [hit["id"]]
    async with path.producer() as client:
        shown: list[WatchHit] = await client.vectors.match("bad", [{"id": "s", "text": "now buy pills cheap online"}])
    assert [(one.item, one.collection) for one in shown] == [("i1", "")]
    assert len((await http.get("/watchlists/bad/hits")).json()["data"]) == 2
    wrong = await http.post("/watchlists", json=wanted | {"threshold": 2})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "threshold")


async def test_near_duplicates_are_hits(http: httpx.AsyncClient) -> None:
    await made(http, "news", model=MODEL)
    await http.post("/watchlists", json={"name": "twins", "threshold": 0.9, "near_duplicates_of": "news"})

    async def are_found() -> bool:
        await indexed(http, "news", {"id": "a", "text": BEARS}, {"id": "b", "text": "other words altogether"})
        await indexed(http, "news", {"id": "c", "text": f"{BEARS}!"})
        return bool((await http.get("/watchlists/twins/hits")).json()["data"])

    await eventually(are_found)
    pairs = {
        frozenset((hit["item"], hit["document"])) for hit in (await http.get("/watchlists/twins/hits")).json()["data"]
    }
    assert pairs == {frozenset(("a", "c"))}


async def test_a_restart_of_the_service_fails_no_search(path: MainPath, http: httpx.AsyncClient) -> None:
    await made(http, "steady", dimension=2)
    await indexed(http, "steady", {"id": "a", "vector": [1.0, 0.0]})
    statuses: list[int] = []

    async def search() -> None:
        while True:
            answer = await http.post("/steady/search", json={"vector": [1, 0]})
            statuses.append(answer.status_code)

    searching = asyncio.create_task(search())
    await eventually(lambda: len(statuses) > 10)
    service = next(one for one in path._services if one.name == "vectors-0")
    service.signal(signal.SIGTERM)
    assert await service.ended() == 0
    await path.vectors()
    before = len(statuses)
    await eventually(lambda: len(statuses) > before + 10)
    searching.cancel()
    assert set(statuses) == {200}
