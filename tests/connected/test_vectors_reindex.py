"""A collection moves to another model while it is searched and written, and the service is killed in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.main_path import MainPath
from tests.vectors_client import VectorsClient, text

from inferbus.bus import Bus
from inferbus.contracts import vector_manage as manage
from inferbus.contracts.vectors import BUILDING, CANCELLED, DONE, SWAPPED, CollectionRecord, Document, Reindexing
from inferbus.errors import Conflict, DependencyDown
from inferbus.testing import eventually

DOCUMENTS = 800
SETTINGS = {"settle_s": 0.5}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.embedder("embed-a")
        await path.embedder("embed-b", name="embed-1", simulator_dimension=48, simulator_ttft_s=0.05)
        await path.vectors(**SETTINGS)
        yield path


@pytest_asyncio.fixture
async def bus(path: MainPath) -> AsyncIterator[Bus]:
    bus = await path.nats.connect("gateway")
    yield bus
    await bus.close()


class Traffic:
    """Searches and writes all the while. `failed` has what went wrong while the service was there. `deaths` changes when it is
    killed and when it is back: what was asked before may be answered by nobody, and says so much later."""

    def __init__(self, client: VectorsClient) -> None:
        self._client = client
        self.failed: list[str] = []
        self.searches = 0
        self.models: set[str] = set()
        self.deaths = 0
        self.is_there = True
        self.written: dict[str, int | None] = {}
        self.is_writing = True
        self._n = 0

    async def search_for_ever(self) -> None:
        while True:
            deaths = self.deaths
            try:
                answer = await self._client.answer("docs", text="number 7", limit=5)
                self.searches += 1
                self.models.add(answer.model)
                if len(answer.hits) != 5:
                    self.failed.append(f"{len(answer.hits)} hits by {answer.model}")
            except Exception as error:  # whatever it was, it failed
                if deaths == self.deaths and self.is_there:  # what a killed process had is lost with it
                    self.failed.append(repr(error))
                await asyncio.sleep(0.02)

    async def write_until_told(self) -> None:
        while self.is_writing:  # not cancelled: what was on its way then may be in, or not
            self._n += 1
            name = f"d{self._n * 37 % (DOCUMENTS + 50)}"
            if self._n % 5:
                await self._client.index("docs", [text(name, f"rewritten number {self._n}", n=self._n)])
                self.written[name] = self._n
            else:
                await self._client.index("docs", [Document(id=name, delete=True)])
                self.written[name] = None
            await asyncio.sleep(0.01)


async def reindexing_of(client: VectorsClient) -> Reindexing | None:
    try:
        return (await client.get("docs")).reindexing
    except DependencyDown:  # it was killed
        return None


async def is_in(client: VectorsClient, state: str) -> bool:
    reindexing = await reindexing_of(client)
    assert reindexing is None or reindexing.state not in ("failed", "ending"), reindexing
    return reindexing is not None and reindexing.state == state


async def start(client: VectorsClient, **settings: object) -> CollectionRecord:
    record: CollectionRecord = await client.ask(
        manage.REINDEX,
        manage.StartReindexing(name="docs", model="embed-b", **settings),  # type: ignore[arg-type]  # of a test
    )
    return record


async def everything(client: VectorsClient) -> dict[str, int]:
    """Give what every document has for `n`."""
    found, after = dict[str, int](), ""
    while True:
        page = await client.ask(manage.SCROLL, manage.Scroll(name="docs", after=after, limit=1000))
        found |= {chunk.id: msgspec.json.decode(chunk.payload)["n"] for chunk in page.chunks}
        after = page.next
        if not after:
            return found


async def test_killed_in_the_middle_searched_and_written_all_the_while(path: MainPath, bus: Bus) -> None:
    client = VectorsClient(bus)
    await client.create("docs")
    await client.indexed("docs", [text(f"d{n}", f"number {n} of many", n=0) for n in range(DOCUMENTS)], count=DOCUMENTS)
    assert (await start(client, keep_s=1.0)).live.model == "embed-a"
    with pytest.raises(Conflict):
        await start(client)
    traffic = Traffic(VectorsClient(bus, timeout_s=8.0))
    tasks = [asyncio.create_task(traffic.search_for_ever()), asyncio.create_task(traffic.write_until_told())]

    seen: list[Reindexing] = []

    async def is_under_way() -> bool:
        reindexing = await reindexing_of(client)
        seen.extend([reindexing] if reindexing is not None and reindexing.done >= DOCUMENTS // 4 else [])
        return bool(seen)

    await eventually(is_under_way, within_s=60.0)
    traffic.is_there, traffic.deaths = False, 1
    killed = next(service for service in path._services if service.name == "vectors-0")
    await killed.kill()
    await path.vectors(**SETTINGS)
    assert await client.search("docs", text="number 7")
    traffic.is_there, traffic.deaths = True, 2
    after = await reindexing_of(client)
    assert after is not None
    assert after.done >= seen[0].done  # it goes on, and does not begin again
    assert after.started == seen[0].started
    await eventually(lambda: is_in(client, DONE), within_s=90.0)
    traffic.is_writing = False
    await tasks[1]
    await eventually(lambda: _is_quiet(client), within_s=60.0)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert traffic.failed == []
    assert traffic.models == {"embed-a", "embed-b"}
    assert traffic.searches > 10
    expected = {f"d{n}": 0 for n in range(DOCUMENTS)} | {
        name: n for name, n in traffic.written.items() if n is not None
    }
    for name in [name for name, n in traffic.written.items() if n is None]:
        expected.pop(name, None)
    assert await everything(client) == expected
    record = await client.get("docs")
    assert (record.live.model, record.live.dimension) == ("embed-b", 48)
    assert (await client.answer("docs", text="number 7", limit=1)).model == "embed-b"


async def _is_quiet(client: VectorsClient) -> bool:
    stats: manage.CollectionStats = await client.ask(manage.STATS, manage.OneCollection(name="docs"))
    return stats.waiting == 0


async def test_ended_before_and_after_the_swap(path: MainPath, bus: Bus) -> None:
    client = VectorsClient(bus)
    await client.create("docs")
    await client.indexed("docs", [text(f"d{n}", f"number {n}", n=n) for n in range(300)], count=300)
    for state in (BUILDING, SWAPPED):
        await start(client, keep_s=600.0)
        if state == SWAPPED:
            await eventually(lambda: is_in(client, SWAPPED), within_s=60.0)
            assert (await client.answer("docs", text="number 7")).model == "embed-b"
            await client.index("docs", [text("late", "came after the swap", n=-1)])
            await eventually(lambda: _has(client, "late"))
        await client.ask(manage.END_REINDEX, manage.OneCollection(name="docs"))

        async def is_over() -> bool:
            reindexing = await reindexing_of(client)
            return reindexing is not None and reindexing.state == CANCELLED

        await eventually(is_over, within_s=30.0)
        assert (await client.answer("docs", text="number 7")).model == "embed-a"
    assert len(await everything(client)) == 301
    assert (await client.search("docs", text="came after the swap", limit=1))[0].id == "late"
    with pytest.raises(Conflict):
        await client.ask(manage.END_REINDEX, manage.OneCollection(name="docs"))


async def _has(client: VectorsClient, name: str) -> bool:
    page = await client.ask(manage.RETRIEVE, manage.Documents(name="docs", ids=[name]))
    return bool(page.chunks)
