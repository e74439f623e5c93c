"""Documents on their way to another placement, whatever happens meanwhile: in the end the one has what the other has."""

from __future__ import annotations

import asyncio
import struct

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.vectors.fakes import MemoryIndex, NoSparse, WordEmbedder, vector_of

from inferbus.contracts.vectors import Chunking, CollectionRecord, Placement
from inferbus.errors import InvalidRequest
from inferbus_vectors.adapters.splitter import Splitter
from inferbus_vectors.domain.points import Chunk, Scope, Where, Write, shard_of
from inferbus_vectors.moving import Moving, MovingDeps, Way
from inferbus_vectors.ports import Payer

OLD, NEW = Placement(model="a", dimension=4), Placement(model="b", dimension=6)
RECORD = CollectionRecord(id="c1", tenant="dev", name="docs", live=OLD, created=1.0)
SCOPE = Scope("dev", "c1")
WAY = Way(record=RECORD, source=OLD, target=NEW, payer=Payer("dev"))
SOURCE, TARGET = shard_of(OLD).name, shard_of(NEW).name


def document(name: str, version: int, *texts: str, dimension: int = 4) -> Write:
    chunks = [Chunk(vector=vector_of(text, dimension), text=text) for text in texts]
    return Write(scope=SCOPE, id=name, version=version, chunks=chunks, payload=b'{"n":1}', at=float(version))


async def rig() -> tuple[MemoryIndex, WordEmbedder, Moving]:
    index, embedder = MemoryIndex(), WordEmbedder(a=4, b=6)
    await index.ensure(shard_of(OLD))
    await index.ensure(shard_of(NEW))
    return index, embedder, Moving(MovingDeps(index=index, embedder=embedder, sparse=NoSparse(), splitter=Splitter()))


async def copy_all(moving: Moving, way: Way = WAY, cursor: str = "") -> list[str]:
    failed = list[str]()
    while True:
        copied = await moving.copy_next(way, cursor)
        failed += copied.failed
        cursor = copied.cursor
        if not cursor:
            return failed


async def test_all_chunks_of_all_documents_with_vectors_of_the_other_model() -> None:
    index, embedder, moving = await rig()
    await index.write(SOURCE, [document(f"d{n}", n + 1, f"text {n}", "more", "and more") for n in range(150)])
    assert await copy_all(moving) == []
    assert index.versions(TARGET, SCOPE) == index.versions(SOURCE, SCOPE)
    page = await index.read(TARGET, Where(scope=SCOPE, documents=["d7"]), with_vector=True)
    assert {(one.chunk, one.text, one.vector) for one in page.found} == {
        (n, text, vector_of(text, 6)) for n, text in enumerate(("text 7", "more", "and more"))
    }
    assert {(model, lane) for model, lane, _ in embedder.asked} == {("b", "batch")}
    compared = await moving.compare_all(WAY, now=lambda: 1e9, recent_s=5.0)
    assert (compared.mended, compared.long_since) == (0, 0)


async def test_what_has_no_text_moves_if_it_fits_and_is_named_if_not() -> None:
    index, embedder, moving = await rig()
    bare = Chunk(vector=struct.pack("<4f", 1, 2, 3, 4))
    await index.write(SOURCE, [Write(scope=SCOPE, id="bare", version=1, chunks=[bare]), document("d", 2, "text")])
    assert await copy_all(moving) == ["bare"]
    again = with_target(WAY, Placement(model="a", dimension=4, generation=2))
    await index.ensure(shard_of(again.target))
    embedder.asked.clear()
    assert await copy_all(moving, again) == []
    assert embedder.asked == []  # the same model reads the same
    assert index.versions(shard_of(again.target).name, SCOPE) == {"bare": 1, "d": 2}


def with_target(way: Way, target: Placement) -> Way:
    return Way(record=way.record, source=way.source, target=target, payer=way.payer)


async def test_a_text_the_model_refuses_is_found_among_others() -> None:
    index, embedder, moving = await rig()
    embedder.fails = lambda text: InvalidRequest("too long") if "bad" in text else None
    await index.write(SOURCE, [document(f"d{n}", 1, "bad" if n == 13 else f"good {n}") for n in range(40)])
    assert await copy_all(moving) == ["d13"]
    assert set(index.versions(TARGET, SCOPE)) == {f"d{n}" for n in range(40)} - {"d13"}


async def test_what_the_other_model_finds_too_long_is_cut_finer_and_whole() -> None:
    index, embedder, moving = await rig()
    embedder.fails = lambda text: InvalidRequest("too long") if len(text.split()) > 20 else None
    words = [f"w{n:04}" for n in range(80)]
    long = document("long", 3, " ".join(words[:60]), " ".join(words[60:]))
    await index.write(SOURCE, [long, document("short", 1, "few words")])
    assert await copy_all(moving) == []
    page = await index.read(TARGET, Where(scope=SCOPE, documents=["long"]), with_vector=True)
    found = sorted(page.found, key=lambda one: one.chunk)
    assert [one.chunk for one in found] == list(range(len(found)))
    assert " ".join(one.text for one in found).split() == words
    assert all(one.vector == vector_of(one.text, 6) for one in found)
    compared = await moving.compare_all(WAY, now=lambda: 1e9, recent_s=5.0)
    assert (compared.mended, compared.long_since) == (0, 0)


async def test_what_is_not_to_be_cut_is_named() -> None:
    index, embedder, moving = await rig()
    embedder.fails = lambda text: InvalidRequest("too long") if len(text.split()) > 20 else None
    await index.write(SOURCE, [document("long", 1, "many words " * 50)])
    way = msgspec.structs.replace(WAY, record=msgspec.structs.replace(RECORD, chunking=Chunking(max_chars=0)))
    assert await copy_all(moving, way) == ["long"]


async def test_compared_and_mended() -> None:
    index, _, moving = await rig()
    await index.write(SOURCE, [document(f"d{n}", 5, "text") for n in range(30)])
    await copy_all(moving)
    await index.write(SOURCE, [document("d3", 9, "newer")])  # by somebody who knew of one placement only
    await index.erase(SOURCE, Where(scope=SCOPE, documents=["d4"]))
    await index.write(TARGET, [document("d5", 11, "in front", dimension=6)])  # of whom the source hears later
    await index.write(TARGET, [document("new", 2_000_000_000, "in front", dimension=6)])
    compared = await moving.compare_all(WAY, now=lambda: 1e9, recent_s=5.0)
    assert (compared.mended, compared.long_since) == (2, 2)
    assert index.versions(TARGET, SCOPE) == index.versions(SOURCE, SCOPE) | {"d5": 11, "new": 2_000_000_000}
    recent = await moving.compare_all(WAY, now=lambda: 6.0, recent_s=5.0)
    assert (recent.mended, recent.long_since) == (0, 0)


_EVENTS = st.lists(st.tuples(st.sampled_from(["put", "out"]), st.integers(0, 9)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 9)), _EVENTS, st.integers(0, 40), st.booleans())
def test_writers_of_both_and_a_copier_who_stops_anywhere(
    there: set[int], events: list[tuple[str, int]], stop: int, source_first: bool
) -> None:
    async def run() -> None:
        index, _, moving = await rig()
        await index.write(SOURCE, [document(f"d{n}", 1, f"text {n}") for n in there])
        left, calls = list(enumerate(events, 2)), [0]
        half: list[Write] = []
        order = [SOURCE, TARGET] if source_first else [TARGET, SOURCE]

        def meanwhile() -> None:
            """A writer does one of its two writes."""
            calls[0] += 1
            if half:
                index._write(index.points[order[1]], half.pop())
            elif left and calls[0] % 2:
                version, (kind, n) = left.pop(0)
                out = Write(scope=SCOPE, id=f"d{n}", version=version)
                both = {
                    place: document(f"d{n}", version, "new", dimension=size) if kind == "put" else out
                    for place, size in ((SOURCE, 4), (TARGET, 6))
                }
                index._write(index.points[order[0]], both[order[0]])
                half.append(both[order[1]])

        def between(_call: str, _shard: str) -> None:
            meanwhile()
            if calls[0] == stop:
                raise asyncio.CancelledError

        index.before = between
        cursor = ""
        while True:
            try:
                copied = await moving.copy_next(WAY, cursor)
            except asyncio.CancelledError:
                continue  # killed: it begins again where it was
            cursor = copied.cursor
            if not cursor:
                break
        while left or half:
            meanwhile()
        index.before = lambda _call, _shard: None
        await moving.compare_all(WAY, now=lambda: 1e9, recent_s=5.0)
        assert index.versions(TARGET, SCOPE) == index.versions(SOURCE, SCOPE)

    asyncio.run(run())
