"""Searches and collections over the bus, against the real embedded engine; embeddings are the simulator's."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.main_path import MainPath
from tests.vectors_client import VectorsClient, text

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.codec import to_json
from inferbus.contracts import vector_manage as manage
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.usage import UsageEvent
from inferbus.contracts.vector_search import Filter, Rerank, SearchRequest
from inferbus.contracts.vectors import Document, Field
from inferbus.errors import Conflict, Forbidden, InferbusError, InvalidRequest, NotFound, Unauthenticated, Unsupported
from inferbus.models import apply_model
from inferbus.testing import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIELDS = [Field(name="lang"), Field(name="year", type="integer"), Field(name="at", type="datetime")]
TEXTS = [
    text("open", "open a file and read it", lang="en", year=2020, at="2020-05-01"),
    text("close", "close a file", lang="en", year=2021, at="2021-05-01"),
    text("fruit", "yellow bananas and green apples", lang="en", year=2022, at="2022-05-01"),
    text("datei", "eine Datei lesen", lang="de", year=2022, at="2022-06-01"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path_factory.mktemp("vectors")) as path:
        await path.embedder("embed-a", "embed-b", "ranker")
        admin = await path.nats.connect("admin")
        await apply_model(admin, ModelEntry(name="ranker", pool="embed-a", runtime="embed", tasks=("rerank",)))
        await admin.close()
        await path.vectors(settle_s=0.2, searches=8, searches_per_tenant=4, search_deadline_s=30)
        yield path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(path: MainPath) -> AsyncIterator[Bus]:
    bus = await path.nats.connect("gateway")
    yield bus
    await bus.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dev(bus: Bus) -> VectorsClient:
    """The tenant dev with a collection `docs`."""
    client = VectorsClient(bus)
    await client.create("docs", fields=FIELDS, hybrid=True)
    await client.indexed("docs", TEXTS, count=len(TEXTS))
    return client


async def ids(client: VectorsClient, name: str = "docs", **said: object) -> list[str]:
    return [hit.id for hit in await client.search(name, **said)]


def where(key: str, value: object, type_: str = "eq") -> Filter:
    return Filter(type=type_, key=key, value=value)  # type: ignore[arg-type]  # of any kind, the wrong ones too


async def test_text_vector_and_id(dev: VectorsClient) -> None:
    answer = await dev.answer("docs", text="read a file", limit=2, with_vector=True)
    assert [hit.id for hit in answer.hits] == ["open", "close"]
    assert (answer.model, answer.collection) == ("embed-a", "docs")
    assert answer.tokens == 3
    best = answer.hits[0]
    assert best.text == "open a file and read it"
    assert msgspec.json.decode(best.payload)["lang"] == "en"
    assert best.score > answer.hits[1].score
    assert best.vector_b64 is not None
    assert await ids(dev, vector_b64=best.vector_b64, limit=1) == ["open"]
    like = await ids(dev, like="open")
    assert like[0] == "close"
    assert "open" not in like
    assert await ids(dev, text="read a file", limit=1, offset=1) == ["close"]
    assert await ids(dev, text="read a file", threshold=best.score - 0.01) == ["open"]
    assert await ids(dev, text="read a file", limit=2, exact=True) == ["open", "close"]
    bare = (await dev.search("docs", text="file", with_text=False, with_payload=False))[0]
    assert (bare.text, bytes(bare.payload)) == ("", b"{}")


async def test_filters(dev: VectorsClient) -> None:
    assert await ids(dev, text="file", filter=where("lang", "de")) == ["datei"]
    assert set(await ids(dev, text="file", filter=where("year", 2022, "lt"))) == {"open", "close"}
    recent = Filter(type="and", filters=[where("at", "2022-01-01T00:00:00+01:00", "gte"), where("lang", "de", "ne")])
    assert await ids(dev, text="file", filter=recent) == ["fruit"]


async def test_hybrid_and_sparse(dev: VectorsClient) -> None:
    assert (await ids(dev, text="bananas", mode="sparse")) == ["fruit"]
    assert (await ids(dev, text="green bananas", mode="hybrid", limit=1)) == ["fruit"]


async def test_rerank_by_a_reranker_and_by_an_embedding_model(dev: VectorsClient) -> None:
    for model in ("ranker", "embed-b"):
        hits = await dev.search("docs", text="apples and bananas", rerank=Rerank(model=model), limit=2, offset=0)
        assert hits[0].id == "fruit"
        assert hits[0].text
    kept = await dev.search("docs", text="apples and bananas", rerank=Rerank(model="ranker"), threshold=0.9)
    assert [hit.id for hit in kept] == ["fruit"]


async def test_one_hit_for_each_document(dev: VectorsClient) -> None:
    await dev.create("long")
    long = " ".join(f"file number {n} is opened and read and closed again." for n in range(100))
    await dev.indexed("long", [text("a", long), text("b", long[:1500]), text("c", "nothing of that kind")], count=3)
    assert (await ids(dev, "long", text="file number", limit=3)) != ["a", "b", "c"]
    assert sorted(await ids(dev, "long", text="file number", limit=3, by_document=True)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("said", "param", "error"),
    [
        ({"text": " "}, "text", InvalidRequest),
        ({"vector": [1.0]}, "vector", InvalidRequest),
        ({"text": "a", "filter": where("colour", "red")}, "colour", InvalidRequest),
        ({"text": "a", "filter": where("year", "soon")}, "filter.value", InvalidRequest),
        ({"like": "nobody"}, "like", NotFound),
        ({"text": "a", "rerank": Rerank(model="nobody")}, "rerank.model", NotFound),
        ({"text": "a", "limit": 100_000}, "limit", InvalidRequest),
    ],
)  # fmt: skip
async def test_bad_searches_name_the_field(
    dev: VectorsClient, said: dict[str, object], param: str, error: type[InferbusError]
) -> None:
    with pytest.raises(error) as raised:
        await dev.search("docs", **said)
    assert raised.value.param == param


async def dead_letters(bus: Bus, tenant: str, count: int) -> bool:
    subject = routes.dlq(routes.vectors_index(tenant, "*"))
    return len(await read_stored(bus, routes.STREAM_DLQ, subject)) == count


async def test_another_tenant_sees_nothing(dev: VectorsClient, bus: Bus, path: MainPath) -> None:
    """Whatever it says: names, ids, filters and aliases are its own; those of others do not exist."""
    other = VectorsClient(bus, "other")
    await other.create("docs", fields=[*FIELDS, Field(name="t"), Field(name="c"), Field(name="tenant")], hybrid=True)
    await other.indexed("docs", [text("mine", "open a file and read it", lang="en", tenant="dev", t="dev")], count=1)
    mine = await dev.get("docs")
    tricks: list[dict[str, object]] = [
        {"text": "open a file"},
        {"text": "open a file", "mode": "hybrid"},
        {"text": "open a file", "mode": "sparse"},
        {"text": "open a file", "exact": True},
        {"text": "a", "filter": where("lang", "en")},
        {"text": "a", "filter": Filter(type="or", filters=[where("lang", "en"), where("tenant", "x", "ne")])},
        {"text": "a", "filter": Filter(type="not", filters=[where("lang", "nobody")])},
        {"text": "a", "filter": where("t", "dev")},
        {"text": "a", "filter": where("c", f"dev/{mine.id}", "ne")},
    ]
    for said in tricks:
        assert set(await ids(other, **said)) <= {"mine"}, said
        assert "mine" not in await ids(dev, **said) if "filter" not in said else True
    with pytest.raises(NotFound):
        await other.search("docs", like="open")
    for name in ("long", mine.id, "dev.docs"[4:] + "x"):
        with pytest.raises(NotFound):
            await other.search(name, text="a")
    with pytest.raises(NotFound):
        await other.ask(manage.ALIAS, manage.SetAlias(alias="theirs", collection="long"))
    await dev.ask(manage.ALIAS, manage.SetAlias(alias="latest", collection="docs"))
    with pytest.raises(NotFound):
        await other.search("latest", text="a")
    page = await other.ask(manage.RETRIEVE, manage.Documents(name="docs", ids=["open", "mine"]))
    assert [chunk.id for chunk in page.chunks] == ["mine"]
    page = await other.ask(manage.SCROLL, manage.Scroll(name="docs", limit=1000))
    assert [chunk.id for chunk in page.chunks] == ["mine"]
    await other.ask(manage.ERASE, manage.Erase(name="docs", ids=["open", "close"]))
    await other.ask(manage.ERASE, manage.Erase(name="docs", filter=where("lang", "de")))
    with pytest.raises(InvalidRequest):
        await other.ask(manage.ERASE_TENANT, manage.EraseTenant(confirm="dev"))
    for name in ("*", ">", "", "docs.x", "a b\r\n"):
        with pytest.raises(NotFound):
            await other.get(name)
    await other.index("docs", [Document(id="bad", vector=[1.0])])
    service = await path.nats.connect("vectors")
    await eventually(lambda: dead_letters(service, "other", 1))
    erased = await other.ask(manage.ERASE_TENANT, manage.EraseTenant(confirm="other"))
    assert erased.chunks == 1
    assert await dead_letters(service, "other", 0)
    await service.close()
    assert (await other.ask(manage.LIST, manage.ListCollections())).collections == []
    assert await dev.count("docs") == len(TEXTS)
    keys = {"Ib-Key": "0123456789ab"}
    with pytest.raises((Forbidden, Unauthenticated)):
        await dev.search("docs", keys, text="a")


async def test_the_life_of_a_collection(dev: VectorsClient) -> None:
    record = await dev.create("life", fields=[Field(name="lang")], retention_s=3600.0, metadata={"by": "me"})
    assert (record.live.dimension, record.live.model, record.retention_s) == (64, "embed-a", 3600.0)
    with pytest.raises(Conflict):
        await dev.create("life")
    for said in ({"model": "nobody"}, {"model": "", "dimension": 0}, {"dimension": 63}, {"distance": "far"}):
        with pytest.raises((InvalidRequest, NotFound)):
            await dev.create("other", **said)  # type: ignore[arg-type]  # each is of one kind
    with pytest.raises(InvalidRequest):
        await dev.create("a.b")
    changed = await dev.ask(
        manage.CHANGE, manage.ChangeCollection(name="life", fields=[Field(name="n", type="integer")])
    )
    assert [field.name for field in changed.fields] == ["lang", "n"]
    with pytest.raises(Conflict):
        await dev.ask(manage.CHANGE, manage.ChangeCollection(name="life", fields=[Field(name="lang", type="integer")]))
    await dev.ask(manage.ALIAS, manage.SetAlias(alias="now", collection="life"))
    with pytest.raises(Conflict):
        await dev.ask(manage.ALIAS, manage.SetAlias(alias="docs", collection="life"))
    await dev.indexed("now", [text("a", "one two", n=1), text("b", "three", n=2)], count=2)
    stats = await dev.ask(manage.STATS, manage.OneCollection(name="now"))
    assert (stats.documents, stats.chunks, stats.waiting, stats.collection.name) == (2, 2, 0, "life")
    assert await ids(dev, "now", text="one", filter=where("n", 1)) == ["a"]
    assert (await dev.ask(manage.ERASE, manage.Erase(name="life", ids=["a"]))).chunks == 1
    assert await ids(dev, "now", text="one") == ["b"]
    backup = await dev.ask(manage.BACKUP, manage.MakeBackup(name="life"))
    assert backup.chunks == 1
    restored = await dev.ask(manage.RESTORE, manage.RestoreBackup(name="again", file_id=backup.file_id))
    assert restored.id != record.id
    await eventually(lambda: _is_known(dev, "again"))
    hit = (await dev.search("again", text="three", filter=where("n", 2)))[0]
    assert (hit.id, hit.text, bytes(hit.payload)) == ("b", "three", b'{"n":2}')
    assert (await dev.ask(manage.DELETE, manage.OneCollection(name="life"))).state == "deleting"
    await eventually(lambda: _is_gone(dev, "now"))
    await eventually(lambda: _is_gone(dev, "life"))
    names = {one.name for one in (await dev.ask(manage.LIST, manage.ListCollections())).collections}
    assert "life" not in names
    assert {"docs", "again"} <= names
    with pytest.raises(NotFound):
        await dev.ask(manage.RESTORE, manage.RestoreBackup(name="x", file_id="file-00000000"))


async def _is_known(client: VectorsClient, name: str) -> bool:
    try:
        await client.search(name, text="a")
    except NotFound:
        return False
    return True


async def _is_gone(client: VectorsClient, name: str) -> bool:
    try:
        await client.get(name)
    except NotFound:
        return not await _is_known(client, name)
    return False


async def test_a_collection_of_ready_vectors(dev: VectorsClient) -> None:
    await dev.create("ready", model="", dimension=2, distance="dot")
    await dev.indexed("ready", [Document(id="x", vector=[1.0, 0.0]), Document(id="y", vector=[0.0, 2.0])], count=2)
    assert await ids(dev, "ready", vector=[0.1, 1.0]) == ["y", "x"]
    with pytest.raises(Unsupported):
        await dev.search("ready", text="a")


async def test_too_many_at_once_are_refused_and_all_are_answered(dev: VectorsClient, bus: Bus, path: MainPath) -> None:
    said = to_json(SearchRequest(text="file"))
    answers = await asyncio.gather(
        *(bus.request(routes.vectors_search("dev", "docs"), said, timeout_s=20.0) for _ in range(64))
    )
    kinds = [msgspec.json.decode(answer.data) for answer in answers]
    refused = [one for one in kinds if one["type"] == "vectors.refused.v1"]
    assert refused, "four of a tenant at once is the most"
    assert {one["code"] for one in refused} <= {"tenant_overloaded", "overloaded"}
    assert len(refused) < len(kinds)
    await eventually(lambda: path.figure("vectors-0", "inferbus_vectors_searches_running") == 0)
    assert await ids(dev, text="file")


async def test_a_deadline_and_an_event_of_usage(dev: VectorsClient, bus: Bus, path: MainPath) -> None:
    await dev.search("docs", {"Ib-Request": "search-1", "Ib-Deadline-Ms": "5000"}, text="file")
    reader = await path.nats.connect("ledger")

    async def told() -> UsageEvent | None:
        stored = await read_stored(reader, routes.STREAM_USAGE, routes.usage("dev", routes.POOL_VECTORS))
        events = [msgspec.json.decode(one.data, type=UsageEvent) for one in stored]
        return next((event for event in events if event.request_id == "search-1"), None)

    async def is_told() -> bool:
        return await told() is not None

    await eventually(is_told)
    event = await told()
    await reader.close()
    assert event is not None
    assert (event.task, event.model, event.outcome, event.requests) == ("vectors.search", "embed-a", "finished", 1)
    with pytest.raises(InferbusError) as raised:
        await dev.search("docs", {"Ib-Deadline-Ms": "0"}, text="file")
    assert raised.value.code.startswith("deadline")


async def test_what_has_expired_is_not_found_before_it_is_swept(dev: VectorsClient) -> None:
    await dev.create("brief")
    past = time.time() - 1.0
    documents = [
        Document(id="old", text="a file", expires_at=past),
        Document(id="new", text="a file", expires_at=past + 3600),
    ]
    await dev.indexed("brief", documents, count=2)
    assert await ids(dev, "brief", text="a file") == ["new"]


async def test_an_engine_that_dies_fails_no_search(dev: VectorsClient, path: MainPath) -> None:
    service = path.beat("vectors-0").pid
    for _ in range(2):
        engines = [
            pid for pid in children_of(service) if b"qdrant_edge.owner" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(engines[0], signal.SIGKILL)
        assert await ids(dev, text="read a file", limit=1) == ["open"]
        assert await ids(dev, like="open", limit=1) == ["close"]


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
