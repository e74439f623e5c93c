"""What every engine behind `VectorIndex` does: the embedded one, Qdrant's client in memory, and a server where there is one."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from tests.unit.vectors.vector_samples import DOCS, OTHERS, SHARD, STRANGERS, angle, vector, write

from inferbus.contracts.vector_search import Filter
from inferbus.contracts.vectors import DATETIME, INTEGER, Field
from inferbus.errors import InvalidRequest, NotFound
from inferbus_vectors.adapters.bm25 import Bm25Encoder
from inferbus_vectors.adapters.qdrant_edge.index import EdgeIndex
from inferbus_vectors.adapters.qdrant_server.index import ServerIndex, connect
from inferbus_vectors.domain.facets import facets_of, resolve
from inferbus_vectors.domain.points import DELETED, INDEXED, STALE, Chunk, Query, Where, Write
from inferbus_vectors.erasing import erase_documents
from inferbus_vectors.ports import VectorIndex

SERVER = os.environ.get("INFERBUS_QDRANT_URL", "")
FIELDS = [
    Field(name="lang"),
    Field(name="author.name"),
    Field(name="year", type=INTEGER),
    Field(name="at", type=DATETIME),
]


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # What the client in memory says of itself.
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["edge", "memory", *(["server"] if SERVER else [])])
async def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VectorIndex]:
    if request.param == "edge":
        edge = EdgeIndex(tmp_path_factory.mktemp("vectors"))
        await edge.start()
        await edge.owned()
        made: VectorIndex = edge
    else:
        url = SERVER if request.param == "server" else ":memory:"
        made = ServerIndex(connect(url), prefix=f"test-{secrets.token_hex(4)}-")
    yield made
    for name in await made.shards():
        await made.drop(name)
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def index(engine: VectorIndex) -> VectorIndex:
    """An engine with one shard, which is empty."""
    await engine.drop(SHARD.name)
    await engine.ensure(SHARD)
    await engine.index_fields(SHARD.name, FIELDS)
    return engine


async def ids(index: VectorIndex, where: Where | None = None, **more: object) -> list[str]:
    query = Query(where=where or Where(scope=DOCS), dense=angle(0), **more)  # type: ignore[arg-type]  # of Query's own types
    return [found.id for found in await index.search(SHARD.name, query)]


async def test_what_is_written_is_found_the_nearest_first_with_all_that_was_given(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("far", 80), write("near", 10, payload=b'{"a": [1]}', at=5.0, expires_at=9.0)])
    near, far = await index.search(SHARD.name, Query(where=Where(scope=DOCS), dense=angle(0), with_vector=True))
    assert (near.id, far.id) == ("near", "far")
    assert near.score == pytest.approx(np.cos(np.radians(10)), abs=1e-5)
    assert (near.payload, near.text, near.version, near.chunk) == (b'{"a": [1]}', "near at 10", 1, 0)
    assert (near.at, near.expires_at, near.collection) == (5.0, 9.0, "docs")
    assert near.vector is not None
    assert np.frombuffer(near.vector, np.float32) == pytest.approx(np.frombuffer(angle(10), np.float32), abs=1e-5)


async def test_nobody_sees_another_s(index: VectorIndex) -> None:
    await index.write(
        SHARD.name,
        [write("a", 0), write("a", 0, scope=OTHERS), write("a", 0, scope=STRANGERS), write("b", 9, scope=STRANGERS)],
    )
    assert await ids(index) == ["a"]
    assert await index.count(SHARD.name, Where(scope=STRANGERS)) == 2
    assert await index.erase(SHARD.name, Where(scope=DOCS)) == 1
    assert await ids(index) == []
    assert await ids(index, Where(scope=OTHERS)) == ["a"]
    await index.erase(SHARD.name, Where(scope=type(DOCS)("stranger")))
    assert await index.count(SHARD.name, Where(scope=STRANGERS)) == 0
    assert await ids(index, Where(scope=OTHERS)) == ["a"]


async def test_an_older_state_never_replaces_a_newer_one(index: VectorIndex) -> None:
    assert await index.write(SHARD.name, [write("a", 10, version=5)]) == [INDEXED]
    assert await index.write(SHARD.name, [write("a", 20, version=4), write("b", 30, version=4)]) == [STALE, INDEXED]
    assert await index.write(SHARD.name, [write("a", version=4)]) == [STALE]
    assert await ids(index) == ["a", "b"]
    assert await index.write(SHARD.name, [write("a", version=6)]) == [DELETED]
    assert await index.write(SHARD.name, [write("a", 0, version=5)]) == [STALE]  # it comes late, and stays out
    assert await ids(index) == ["b"]
    assert await index.write(SHARD.name, [write("a", 0, version=7)]) == [INDEXED]
    assert await ids(index) == ["a", "b"]


async def test_a_document_has_the_chunks_of_its_last_state_and_no_others(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("a", 10, 20, 30, 40)])
    assert await index.count(SHARD.name, Where(scope=DOCS)) == 4
    await index.write(SHARD.name, [write("a", 50, 60, version=2)])
    page = await index.read(SHARD.name, Where(scope=DOCS))
    assert sorted((found.chunk, found.version, found.text) for found in page.found) == [
        (0, 2, "a at 50"), (1, 2, "a at 60"),
    ]  # fmt: skip
    assert await index.count(SHARD.name, Where(scope=DOCS, heads_only=True)) == 1
    await index.write(SHARD.name, [write("a", version=3)])
    assert await index.count(SHARD.name, Where(scope=DOCS)) == 0


async def test_the_same_again_changes_nothing(index: VectorIndex) -> None:
    for _ in range(2):
        await index.write(SHARD.name, [write("a", 10, 20), write("b", 30)])
    assert await index.count(SHARD.name, Where(scope=DOCS)) == 3


async def test_filters(index: VectorIndex) -> None:
    def facets(payload: bytes) -> bytes:
        return facets_of(payload, [*FIELDS, Field(name="ok", type="bool")])

    await index.index_fields(SHARD.name, [Field(name="ok", type="bool")])
    payloads = {
        "a": b'{"lang":"en","year":2020,"author":{"name":"ann"},"at":"2026-01-01","ok":true}',
        "b": b'{"lang":["de","en"],"year":2021,"at":"2026-01-02T10:00:00+02:00","ok":false}',
        "c": b'{"lang":"fr","year":2022}',
    }
    await index.write(
        SHARD.name,
        [write(name, 10 * n, payload=one, facets=facets(one)) for n, (name, one) in enumerate(payloads.items())],
    )
    fields = [*FIELDS, Field(name="ok", type="bool")]

    async def found(filter_: Filter) -> str:
        return "".join(await ids(index, Where(scope=DOCS, filter=resolve(filter_, fields))))

    assert await found(Filter(type="eq", key="lang", value="en")) == "ab"
    assert await found(Filter(type="ne", key="lang", value="en")) == "c"
    assert await found(Filter(type="in", key="lang", value=["de", "fr"])) == "bc"
    assert await found(Filter(type="nin", key="lang", value=["de", "fr"])) == "a"
    assert await found(Filter(type="gte", key="year", value=2021)) == "bc"
    assert await found(Filter(type="eq", key="year", value=2021)) == "b"
    assert await found(Filter(type="eq", key="author.name", value="ann")) == "a"
    assert await found(Filter(type="exists", key="author.name")) == "a"
    assert await found(Filter(type="exists", key="author.name", value=False)) == "bc"
    assert await found(Filter(type="lt", key="at", value="2026-01-02")) == "a"
    assert await found(Filter(type="eq", key="at", value="2026-01-02T08:00:00Z")) == "b"
    assert await found(Filter(type="eq", key="ok", value=False)) == "b"
    both = [Filter(type="eq", key="lang", value="en"), Filter(type="gt", key="year", value=2020)]
    assert await found(Filter(type="and", filters=both)) == "b"
    assert await found(Filter(type="or", filters=both)) == "abc"
    assert await found(Filter(type="not", filters=both)) == ""


async def test_documents_by_name_and_all_but_some(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("a", 10, 20), write("b", 30), write("c", 40)])
    assert await ids(index, Where(scope=DOCS, documents=["a", "c", "nobody"])) == ["a", "a", "c"]
    assert await ids(index, Where(scope=DOCS, not_documents=["a"])) == ["b", "c"]
    assert await ids(index, Where(scope=DOCS, documents=[])) == []
    assert await index.erase(SHARD.name, Where(scope=DOCS, documents=["a"])) == 2
    assert await ids(index) == ["b", "c"]


async def test_words_rank_by_bm25_and_both_rankings_are_fused(index: VectorIndex) -> None:
    bm25 = Bm25Encoder()
    texts = {"fox": "the quick brown fox", "dog": "a lazy dog sleeps", "cat": "cats and foxes and dogs"}
    await index.write(
        SHARD.name,
        [
            write(name, 30 * n, texts=[text], sparse=bm25.document(text))
            for n, (name, text) in enumerate(texts.items())
        ],
    )  # fmt: skip
    where = Where(scope=DOCS)
    words = await index.search(SHARD.name, Query(where=where, sparse=bm25.query("lazy dogs"), limit=5))
    assert [found.id for found in words] == ["dog", "cat"]
    fused = await index.search(SHARD.name, Query(where=where, dense=angle(60), sparse=bm25.query("lazy"), limit=5))
    assert {found.id for found in fused[:2]} == {"dog", "cat"}
    assert len(fused) == 3


async def test_threshold_limit_offset_and_exactness(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write(f"d{n}", 10 * n) for n in range(8)])
    assert await ids(index, threshold=float(np.cos(np.radians(25)))) == ["d0", "d1", "d2"]
    assert await ids(index, limit=2, offset=3, exact=True) == ["d3", "d4"]


async def test_pages_have_everything_once(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write(f"d{n}", n) for n in range(25)])
    seen: list[str] = []
    after = ""
    while True:
        page = await index.read(SHARD.name, Where(scope=DOCS), after=after, limit=10, with_vector=True)
        assert all(found.vector is not None for found in page.found)
        seen += [found.id for found in page.found]
        after = page.next
        if not after:
            break
    assert sorted(seen) == sorted(f"d{n}" for n in range(25))


async def test_what_is_to_go_goes_by_its_time(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("a", 1, expires_at=100.0), write("b", 2, expires_at=200.0), write("c", 3)])
    assert await index.erase(SHARD.name, Where(scope=DOCS, expired_at=150.0)) == 1
    assert await ids(index) == ["b", "c"]


async def test_gravestones_are_swept_and_are_nobody_s_documents(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("a", 1), write("b", 2)])
    await index.write(SHARD.name, [write("a", version=2, at=10.0), write("b", version=2, at=20.0)])
    assert await index.count(SHARD.name, Where(scope=DOCS)) == 0
    assert await index.sweep(SHARD.name, older_than=15.0) == 1
    assert await index.write(SHARD.name, [write("a", 1), write("b", 2)]) == [INDEXED, STALE]


async def test_what_is_erased_stays_out_where_an_older_state_comes_later(index: VectorIndex) -> None:
    french = {"facets": facets_of(b'{"lang":"fr"}', FIELDS)}
    await index.write(
        SHARD.name, [write("a", 1, 2, version=5, **french), write("b", 2, version=9, **french), write("c", 3)]
    )
    where = Where(scope=DOCS, filter=resolve(Filter(type="eq", key="lang", value="fr"), FIELDS))
    assert await erase_documents(index, [SHARD.name, "nobody's"], where, now=10.0) == 3
    assert await ids(index) == ["c"]
    late = [write("a", 1, version=5, **french), write("b", 2, version=8, **french)]
    assert await index.write(SHARD.name, late) == [STALE, STALE]
    assert await index.write(SHARD.name, [write("a", 1, version=6)]) == [INDEXED]
    assert await erase_documents(index, [SHARD.name], Where(scope=DOCS, documents=["c", "nobody"]), now=10.0) == 1
    assert await index.write(SHARD.name, [write("c", 3)]) == [STALE]
    assert await ids(index) == ["a"]


async def test_what_does_not_fit_is_refused_and_nothing_breaks(index: VectorIndex) -> None:
    with pytest.raises(InvalidRequest):
        await index.write(SHARD.name, [Write(scope=DOCS, id="x", version=1, chunks=[Chunk(vector=vector(1.0, 2.0))])])
    with pytest.raises(NotFound):
        await index.search("nobody's", Query(where=Where(scope=DOCS), dense=angle(0)))
    await index.write(SHARD.name, [write("a", 1)])
    assert await ids(index) == ["a"]
    assert (await index.stats(SHARD.name)).points == 1


async def test_a_shard_that_is_dropped_is_gone_and_may_come_again(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("a", 1)])
    assert await index.shards() == [SHARD.name]
    await index.drop(SHARD.name)
    await index.drop(SHARD.name)
    assert await index.shards() == []
    await index.ensure(SHARD)
    assert await ids(index) == []


async def test_a_shard_with_a_point_in_it_stays_if_only_an_empty_one_is_to_go(index: VectorIndex) -> None:
    await index.write(SHARD.name, [write("a", 1)])
    assert not await index.drop(SHARD.name, only_if_empty=True)
    assert await ids(index) == ["a"]
    await index.erase(SHARD.name, Where(scope=DOCS))
    assert await index.drop(SHARD.name, only_if_empty=True)
    assert await index.shards() == []
    assert await index.drop(SHARD.name, only_if_empty=True), "it is not there"
