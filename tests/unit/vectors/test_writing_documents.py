"""Batches of writes and of texts: they gather, and what cannot be done is found by halving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.vectors.vector_samples import write

from inferbus.errors import EngineDead, Forbidden, InferbusError, InvalidRequest, NotFound, Overloaded, Poison
from inferbus_vectors.domain.points import DELETED, INDEXED, STALE, Write
from inferbus_vectors.domain.stored import head_ids, plan
from inferbus_vectors.embedding import TextEmbedding, Vector
from inferbus_vectors.ports import Embedded, Payer, VectorIndex
from inferbus_vectors.writing import Writer


class Engine:
    """An index that only writes: it refuses documents whose name says so, dies of others, and notes its batches."""

    def __init__(self, *troubles: InferbusError) -> None:
        self.batches: list[list[str]] = []
        self.troubles = list(troubles)

    async def write(self, shard: str, writes: Sequence[Write]) -> list[str]:
        names = [one.id for one in writes]
        self.batches.append(names)
        await asyncio.sleep(0)
        if self.troubles:
            raise self.troubles.pop(0)
        if any(name.startswith("deadly") for name in names):
            raise EngineDead("it died", retry_after_s=0.0)
        if any(name.startswith("bad") for name in names):
            raise InvalidRequest("it does not fit")
        return [INDEXED] * len(writes)


def writer_of(engine: Engine, **more: float) -> Writer:
    index: VectorIndex = engine  # type: ignore[assignment]  # what writing needs of one
    return Writer(index, chunks=int(more.get("chunks", 64)), wait_s=0.0)


async def test_what_the_engine_cannot_take_is_found_and_the_rest_is_stored() -> None:
    engine = Engine()
    names = [f"d{n}" for n in range(20)] + ["bad"] + [f"e{n}" for n in range(11)]
    found = await writer_of(engine).write("s", [write(name, 1) for name in names])
    assert [one for one in found if one != INDEXED] == [found[20]]
    assert isinstance(found[20], InvalidRequest)
    assert len(engine.batches) < 2 * 6


async def test_a_document_the_engine_dies_of_is_poison_and_others_are_not() -> None:
    found = await writer_of(Engine()).write("s", [write("a", 1), write("deadly", 1), write("b", 1)])
    assert (found[0], found[2]) == (INDEXED, INDEXED)
    assert isinstance(found[1], Poison)


async def test_an_engine_that_is_away_for_a_moment_is_waited_for() -> None:
    engine = Engine(EngineDead("killed", retry_after_s=0.0), Overloaded("later", retry_after_s=0.0))
    assert await writer_of(engine).write("s", [write("a", 1), write("b", 2)]) == [INDEXED, INDEXED]
    found = await writer_of(Engine(NotFound("no shard"))).write("s", [write("a", 1)])
    assert isinstance(found[0], NotFound)


async def test_writes_gather_while_one_is_on_its_way_and_a_document_is_in_a_batch_once() -> None:
    engine = Engine()
    writer = writer_of(engine)
    groups = [[write("a", 1, version=n), write(f"d{n}", 1, version=n)] for n in (1, 3, 2)]
    found = await asyncio.gather(*(writer.write("s", group) for group in groups))
    assert [sorted(batch) for batch in engine.batches] == [["a", "d1", "d2", "d3"]]
    assert [one[0] for one in found] == [STALE, INDEXED, STALE]
    many = await asyncio.gather(*(writer.write("s", [write(f"e{n}", 1)]) for n in range(200)))
    assert many == [[INDEXED]] * 200
    assert max(len(batch) for batch in engine.batches) <= 64


class Pool:
    """An embedder: a text's vector is its first letter; it refuses some texts, or everything."""

    def __init__(self, error: InferbusError | None = None) -> None:
        self.asked: list[int] = []
        self._error = error

    async def embed(
        self, payer: Payer, model: str, texts: Sequence[str], *, lane: str, deadline_s: float, traceparent: str = ""
    ) -> Embedded:
        self.asked.append(len(texts))
        await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        if any(text.startswith("long") for text in texts):
            raise InvalidRequest("over the model's length")
        return Embedded([text[:1].encode() for text in texts], 2 * len(texts))


def embedding_of(pool: Pool) -> TextEmbedding:
    return TextEmbedding(pool, texts=8, wait_s=0.0, at_once=4, deadline_s=1.0)


async def test_texts_of_many_documents_share_requests_and_a_text_too_long_is_found() -> None:
    pool = Pool()
    embedding = embedding_of(pool)
    found = await asyncio.gather(*(embedding.embed(Payer("dev"), "m", [f"{n} x", f"{n} y"]) for n in range(9)))
    assert [[one.vector for one in part if isinstance(one, Vector)] for part in found] == [
        [str(n).encode()] * 2 for n in range(9)
    ]
    assert max(pool.asked) == 8
    mixed = await embedding.embed(Payer("dev"), "m", ["a", "long", "b", "c", "d"])
    assert [isinstance(one, Vector) for one in mixed] == [True, False, True, True, True]
    assert isinstance(mixed[1], InvalidRequest)
    assert mixed[1].param == "text"


async def test_what_is_refused_to_the_payer_is_not_halved() -> None:
    pool = Pool(Forbidden("not this model"))
    found = await embedding_of(pool).embed(Payer("dev"), "m", ["a", "b", "c"])
    assert [type(one) for one in found] == [Forbidden] * 3
    assert pool.asked == [3]


@pytest.mark.parametrize("crash", [False, True])
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=12))
def test_whatever_comes_in_whatever_order_the_newest_state_is_there_whole(
    crash: bool, states: list[tuple[int, int]]
) -> None:
    """`crash`: the engine dies between putting in and taking out, and the write is done again."""
    points: dict[str, dict[str, object]] = {}
    newest = (0, 0)
    for version, chunks in states:
        one = write("a", *range(chunks), version=version)
        for attempt in range(2 if crash else 1):
            names = head_ids([one])
            decided = plan([one], names, {name: points[name] for name in names if name in points})
            points |= {point.id: point.payload for point in decided.put}
            if attempt or not crash:
                for gone in decided.take_out:
                    points.pop(gone, None)
        if version >= newest[0]:
            newest = (version, chunks)
            assert decided.outcomes == [INDEXED if chunks else DELETED]
        else:
            assert decided.outcomes == [STALE]
    found = [(payload["v"], payload["n"]) for payload in points.values() if "g" not in payload]
    assert sorted(found) == [(newest[0], n) for n in range(newest[1])]
