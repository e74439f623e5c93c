"""Shards with nothing in them go, unless a collection is in them or on its way there."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from tests.unit.vectors.fakes import MemoryIndex, vector_of

from inferbus.contracts.vectors import BUILDING, DONE, AliasRecord, CollectionRecord, Named, Placement, Reindexing
from inferbus_vectors.collection_book import CollectionBook
from inferbus_vectors.domain.points import Chunk, Scope, Write, shard_of
from inferbus_vectors.unused import drop_if_unused

OLD, NEW = Placement(model="a", dimension=4), Placement(model="b", dimension=6)
RECORD = CollectionRecord(id="c1", tenant="dev", name="docs", live=NEW, created=1.0)
ALIAS = AliasRecord(tenant="dev", alias="x", collection="docs")
SHARD = shard_of(OLD).name


class Book:
    def __init__(self, *named: Named) -> None:
        self._named = list(named)

    async def of_all(self) -> list[Named]:
        return self._named


async def dropped(*named: Named, write: Write | None = None) -> bool:
    index = MemoryIndex()
    await index.ensure(shard_of(OLD))
    if write is not None:
        await index.write(SHARD, [write])
    gone = await drop_if_unused(index, cast("CollectionBook", Book(*named)), SHARD)
    assert gone == (SHARD not in await index.shards())
    return gone


@pytest.mark.parametrize(("state", "goes"), [(BUILDING, False), (DONE, True)])
async def test_one_that_a_collection_has_left_goes(state: str, goes: bool) -> None:
    moving = msgspec.structs.replace(RECORD, reindexing=Reindexing(to=OLD, state=state))
    assert await dropped(ALIAS, moving) is goes


async def test_one_with_a_collection_or_a_point_stays() -> None:
    assert not await dropped(ALIAS, msgspec.structs.replace(RECORD, live=OLD))
    chunk = Chunk(vector=vector_of("text", 4), text="text")
    assert not await dropped(write=Write(scope=Scope("dev", "c2"), id="d", version=1, chunks=[chunk]))
    assert not await dropped(write=Write(scope=Scope("dev", "c2"), id="gone", version=1))


async def test_what_came_since_the_collections_were_read_keeps_it() -> None:
    index = MemoryIndex()
    await index.ensure(shard_of(OLD))
    point = Write(scope=Scope("dev", "c3"), id="d", version=1, chunks=[Chunk(vector=vector_of("text", 4), text="text")])

    class LateBook(Book):
        async def of_all(self) -> list[Named]:
            found = await super().of_all()
            await index.write(SHARD, [point])
            return found

    assert not await drop_if_unused(index, cast("CollectionBook", LateBook()), SHARD)
    assert SHARD in await index.shards()


async def test_one_that_is_gone_is_nobody_s_concern() -> None:
    assert not await drop_if_unused(MemoryIndex(), cast("CollectionBook", Book()), SHARD)
