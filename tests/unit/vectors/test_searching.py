"""Searching: what is asked of the engine, and what becomes of its hits, without a bus."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.unit.vectors.fakes import LengthReranker, MemoryIndex, NoSparse, WordEmbedder, vector_of

from inferbus.contracts.vector_search import Rerank, SearchRequest
from inferbus.contracts.vectors import CollectionRecord, Placement
from inferbus.errors import EngineDead, InferbusError, NotFound, Overloaded, TenantOverloaded
from inferbus_vectors.domain.points import Chunk, Found, Query, Scope, Write, shard_of
from inferbus_vectors.places import Places
from inferbus_vectors.ports import Payer
from inferbus_vectors.searching import Answered, Asked, SearchDeps, Searching

LIVE = Placement(model="m", dimension=16)
DOCS = CollectionRecord(id="c1", tenant="dev", name="docs", live=LIVE, created=0.0)
OTHERS = msgspec.structs.replace(DOCS, tenant="other", id="c2")
ASKED = Asked(payer=Payer("dev"), deadline_s=1.0)


def document(record: CollectionRecord, name: str, *texts: str) -> Write:
    chunks = [Chunk(vector=vector_of(text, 16), text=text) for text in texts]
    return Write(scope=Scope(record.tenant, record.id), id=name, version=1, chunks=chunks)


@pytest.fixture
async def searching() -> Searching:
    index = MemoryIndex()
    await index.ensure(shard_of(LIVE))
    long = [f"file number {n}" for n in range(30)]
    await index.write(
        shard_of(LIVE).name,
        [document(DOCS, "long", *long), document(DOCS, "b", "file"), document(DOCS, "c", "number of things in a box")],
    )
    await index.write(shard_of(LIVE).name, [document(OTHERS, "theirs", "file number 1")])
    embedder = WordEmbedder(m=16)
    return Searching(SearchDeps(index=index, embedder=embedder, sparse=NoSparse(), reranker=LengthReranker()))


async def found(searching: Searching, record: CollectionRecord = DOCS, **said: object) -> list[str]:
    answer: Answered = await searching.search(ASKED, record, SearchRequest(**said))  # type: ignore[arg-type]  # of a test
    return [hit.id for hit in answer.hits]


async def test_the_best_of_each_document_however_many_chunks_it_has(searching: Searching) -> None:
    assert await found(searching, text="file number", limit=3) == ["long"] * 3
    assert sorted(await found(searching, text="file number", limit=3, by_document=True)) == ["b", "c", "long"]
    assert await found(searching, text="file number", limit=1, offset=3, by_document=True) == []


async def test_reranked(searching: Searching) -> None:
    best = await found(searching, text="file number", rerank=Rerank(model="r"), limit=1)
    assert best == ["c"]  # the longest text
    assert await found(searching, text="file", rerank=Rerank(model="r"), limit=9, threshold=20.0) == ["c"]


async def test_scope_is_the_payers_and_the_collections(searching: Searching) -> None:
    """Even where a record of another tenant's were to come here, what is searched is the payer's."""
    assert "theirs" not in await found(searching, text="file number 1", limit=100)
    assert await found(searching, OTHERS, text="file number 1", limit=100) == []
    with pytest.raises(NotFound):
        await found(searching, like="theirs")


async def test_a_model_that_became_another_is_said_so(searching: Searching) -> None:
    wider = msgspec.structs.replace(DOCS, live=msgspec.structs.replace(LIVE, dimension=17))
    with pytest.raises(InferbusError, match="another model"):
        await found(searching, wider, text="file")


async def test_an_engine_that_says_nothing_is_an_error_to_come_again_for() -> None:
    class Silent(MemoryIndex):
        async def search(self, shard: str, query: Query) -> list[Found]:
            await asyncio.Event().wait()
            return []

    searching = Searching(
        SearchDeps(index=Silent(), embedder=WordEmbedder(m=16), sparse=NoSparse(), reranker=LengthReranker())
    )
    asked = Asked(payer=Payer("dev"), deadline_s=0.05)
    with pytest.raises(EngineDead) as caught:
        await searching.search(asked, DOCS, SearchRequest(text="file"))
    assert caught.value.retry_after_s == 1.0


def test_places() -> None:
    places = Places(3, 2)
    places.take("a")
    places.take("a")
    with pytest.raises(TenantOverloaded):
        places.take("a")
    places.take("b")
    with pytest.raises(Overloaded):
        places.take("c")
    places.give("a")
    places.take("c")
    assert places.taken == 3
