"""The process that owns a folder of shards: one at a time, gone with its service, nothing lost with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.vectors.vector_samples import DOCS, SHARD, angle, write

from inferbus.errors import DependencyDown, EngineDead
from inferbus.testing import eventually, freeze
from inferbus_vectors.adapters.qdrant_edge.folder import Folder, FolderLock
from inferbus_vectors.adapters.qdrant_edge.index import EdgeIndex
from inferbus_vectors.domain.points import INDEXED, Query, Where

ALL = Where(scope=DOCS)
Start = Callable[[], Awaitable[EdgeIndex]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    made: list[EdgeIndex] = []

    async def start() -> EdgeIndex:
        made.append(EdgeIndex(tmp_path))
        await made[-1].start()
        return made[-1]

    yield start
    for index in made:
        await index.stop()


async def ready(start: Start) -> EdgeIndex:
    index = await start()
    await index.owned()
    await index.ensure(SHARD)
    return index


async def test_a_killed_owner_comes_back_with_all_that_was_answered(start: Start) -> None:
    index = await ready(start)
    assert await index.write(SHARD.name, [write("a", 1), write("b", 2)]) == [INDEXED, INDEXED]
    await freeze(index.pid)
    asking = asyncio.create_task(index.count(SHARD.name, ALL))
    await asyncio.sleep(0)
    os.kill(index.pid, signal.SIGKILL)
    with pytest.raises(EngineDead):
        await asking
    await eventually(lambda: index.why_not_ready() is None)
    assert await index.count(SHARD.name, ALL) == 2
    assert index.deaths == 1


async def test_a_second_one_waits_for_the_folder_and_takes_over(start: Start) -> None:
    first = await ready(start)
    await first.write(SHARD.name, [write("a", 1)])
    second = await start()
    await eventually(lambda: "another process" in (second.why_not_ready() or ""))
    with pytest.raises(DependencyDown):
        await second.count(SHARD.name, ALL)
    assert await first.write(SHARD.name, [write("b", 2)]) == [INDEXED]  # the attempt did it no harm
    await first.stop()
    await second.owned()
    assert await second.count(SHARD.name, ALL) == 2


async def test_a_shard_gets_its_graph_while_it_is_searched_and_written(start: Start, tmp_path: Path) -> None:
    index = await ready(start)
    await index.write(SHARD.name, [write(f"d{n}", n / 10) for n in range(3000)])
    optimising = asyncio.create_task(index.optimise(SHARD.name))
    await eventually(lambda: len(list((tmp_path / "shards" / SHARD.name).glob("g*"))) == 2 or optimising.done())
    for n in range(20):
        await index.write(SHARD.name, [write(f"new{n}", 350 + n / 10), write("d0", 300, version=2 + n)])
        assert await index.search(SHARD.name, Query(where=ALL, dense=angle(0), limit=1))
    await asyncio.wait_for(optimising, 60)
    assert [path.name for path in (tmp_path / "shards" / SHARD.name).glob("g*")] == ["g2"]
    assert await index.count(SHARD.name, ALL) == 3020
    page = await index.read(SHARD.name, Where(scope=DOCS, documents=["d0", "new19"]))
    assert sorted((found.id, found.version) for found in page.found) == [("d0", 21), ("new19", 1)]
    os.kill(index.pid, signal.SIGKILL)
    await eventually(lambda: index.deaths == 1 and index.why_not_ready() is None)
    assert await index.count(SHARD.name, ALL) == 3020


async def test_what_a_crash_left_beside_the_current_generation_is_cleared(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert lock.take()
    folder = Folder(tmp_path)
    folder.ensure(SHARD)
    folder.get(SHARD.name).write([write("a", 1)])
    folder.get(SHARD.name).flush()
    folder.copy(SHARD.name)  # and dies before it is built
    (tmp_path / "shards" / "never_finished" / "g1").mkdir(parents=True)
    folder.close()
    folder = Folder(tmp_path)
    assert folder.names() == [SHARD.name]
    assert [path.name for path in (tmp_path / "shards" / SHARD.name).glob("g*")] == ["g1"]
    assert folder.get(SHARD.name).count(ALL) == 1
    folder.close()
    other = FolderLock(tmp_path)
    assert not other.take()
    lock.close()
    assert other.take()
    other.close()


async def test_an_owner_that_hangs_in_a_call_is_killed_and_another_has_all_that_was_answered(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path, silence_s=0.5)
    await index.start()
    try:
        await index.owned()
        await index.ensure(SHARD)
        assert await index.write(SHARD.name, [write("a", 1)]) == [INDEXED]
        hanging = index.pid
        await freeze(hanging)
        asked = await asyncio.gather(
            index.count(SHARD.name, ALL), index.write(SHARD.name, [write("b", 2)]), return_exceptions=True
        )
        assert [type(one) for one in asked] == [EngineDead, EngineDead]
        await eventually(lambda: index.why_not_ready() is None)
        assert await index.count(SHARD.name, ALL) == 1
        assert (index.deaths, index.pid == hanging) == (1, False)
    finally:
        await index.stop()
