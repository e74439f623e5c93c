"""Documents from the bus into the embedded engine: a real server, the real service as a process, a simulated model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
from tests.vectors_client import VectorsClient
from tests.vectors_path import EMBED, VectorsPath, everything, ready

from inferbus import routes
from inferbus.contracts.vectors import Chunking, Document, Field, IndexMessage
from inferbus.testing import eventually, freeze


async def test_documents_come_once_in_effect_and_faulty_ones_alone_become_dead_letters(tmp_path: Path) -> None:
    async with VectorsPath(tmp_path) as path:
        record = await path.collection("docs", fields=[Field(name="lang")])
        service = await path.vectors()
        await path.index_and_wait("docs", [ready("a", 1, 0, 0, 0), ready("b", 0, 1, 0, 0), ready("a", 0, 0, 1, 0)])
        await path.index_and_wait("docs", [Document(id="b", delete=True), ready("c", 1, 1, 0, 0, version=5)])
        await path.index_and_wait("docs", [ready("c", 0, 0, 0, 1, version=4)])  # an older state that comes later
        good, nan = '{"id":"d","vector":[1,2,3,4],"payload":{"lang":"en"}}', '{"id":"x1","vector":[1,NaN,3,4]}'
        faulty = [
            nan, good, '{"id":"x2","vector":[1,2]}', '{"id":"","vector":[1,2,3,4]}', '{"id":"x3","text":" "}',
            '{"id":"x4","vector":[1,2,3,4],"payload":{"lang":7}}', '{"id":"x5","vector":"?"}', '{"id":"x6"}',
        ]  # fmt: skip
        last = await path.index_raw("docs", f'{{"documents":[{",".join(faulty)}]}}'.encode())
        await path.index("nobody_s", [ready("a", 1, 0, 0, 0)])
        await path.index_raw("docs", b"no message")
        await path.indexed()
        await eventually(lambda: len(path.reports) == 6)
        letters = await path.letters()
        told = {
            (one.collection, one.indexed, one.deleted, one.stale, len(one.faults), one.error) for one in path.reports
        }
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
        async with path.engine() as engine:
            found = await everything(engine, record)
    assert {one.id: one.version for one in found} == {"a": 1, "c": 5, "d": last}
    assert ("docs", 2, 0, 1, 0, "") in told
    assert ("docs", 1, 1, 0, 0, "") in told
    assert ("docs", 0, 0, 1, 0, "") in told
    assert ("docs", 1, 0, 0, 7, "") in told
    assert ("nobody_s", 0, 0, 0, 0, "not_found") in told
    assert ("docs", 0, 0, 0, 0, "invalid_request") in told
    faults = {fault.id: fault.param for one in path.reports for fault in one.faults}
    assert faults == {
        "x1": "vector", "x2": "vector", "": "id", "x3": "text", "x4": "payload.lang", "x5": "vector", "x6": "text",
    }  # fmt: skip
    reasons = sorted(letter.reason for letter in letters)
    assert len(letters) == 9, reasons
    again = [msgspec.json.decode(letter.data, type=IndexMessage) for letter in letters if b'"x2"' in letter.data]
    assert [(one.documents[0].id, one.documents[0].version) for one in again] == [("x2", last)]


async def test_text_is_cut_embedded_by_the_pool_and_charged(tmp_path: Path) -> None:
    async with VectorsPath(tmp_path, EMBED) as path:
        record = await path.collection(
            "docs", model=EMBED.name, dimension=64, hybrid=True, chunking=Chunking(max_chars=80)
        )
        await path.worker("embed-0")
        service = await path.vectors()
        long = " ".join(f"Sentence number {n} says something." for n in range(12))
        first = await path.index_and_wait(
            "docs", [Document(id="long", text=long), Document(id="short", text="a fox"), ready("own", *[1.0] * 64)]
        )
        second = await path.index_and_wait("docs", [Document(id="long", text="not so long any more")])
        await path.indexed()
        usage = await path.usage()
        service.signal(signal.SIGTERM)
        await service.ended()
        async with path.engine() as engine:
            found = await everything(engine, record)
    assert {(one.id, one.text) for one in found} == {("long", "not so long any more"), ("short", "a fox"), ("own", "")}
    assert first.chunks > 6
    assert first.tokens > 50
    assert (second.indexed, second.chunks) == (1, 1)
    indexed = [event for event in usage if event.pool == routes.POOL_VECTORS]
    assert [(event.task, event.tenant, event.model) for event in indexed] == [("vectors.index", "dev", EMBED.name)] * 2
    assert sum(event.prompt_tokens for event in usage if event.pool == EMBED.pool) == first.tokens + second.tokens


async def test_kills_of_engine_service_and_bus_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    async with VectorsPath(tmp_path) as path:
        record = await path.collection("docs")
        service = await path.vectors(messages=8)
        for n in range(120):
            await path.index(
                "docs", [ready(f"d{n}-{k}", n, k, 1, 1) for k in range(20)] + [ready(f"same{n % 7}", n, 1, 1, 1)]
            )
            if n % 30 == 10:
                os.kill(await _engine_pid(service.pid), signal.SIGKILL)
            elif n % 30 == 20:
                await service.kill()
                service = await path.vectors(messages=8)
            elif n == 65:
                await path.nats.restart()
        await path.indexed(within_s=60.0)
        service.signal(signal.SIGTERM)
        await service.ended()
        letters = await path.letters()
        async with path.engine() as engine:
            found = await everything(engine, record)
    assert letters == []
    names = [one.id for one in found]
    assert len(names) == len(set(names))
    assert set(names) == {f"d{n}-{k}" for n in range(120) for k in range(20)} | {f"same{n}" for n in range(7)}
    assert sorted(one.version for one in found if one.id.startswith("same")) == list(range(114, 121))


async def test_an_engine_that_hangs_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    async with VectorsPath(tmp_path) as path:
        record = await path.collection("docs")
        service = await path.vectors(engine_silence_s=1.0, search_deadline_s=30.0)
        await path.index_and_wait("docs", [ready("before", 1, 0, 0, 0)])
        hanging = await _engine_pid(service.pid)
        await freeze(hanging)
        await path.index("docs", [ready("meanwhile", 0, 1, 0, 0)])
        bus = await path.nats.connect("gateway", name="searching")
        found = await VectorsClient(bus).search("docs", vector=[1.0, 0.0, 0.0, 0.0], limit=1)
        assert [hit.id for hit in found] == ["before"]
        await path.indexed()
        assert await _engine_pid(service.pid) != hanging
        await bus.close()
        letters = await path.letters()
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
        async with path.engine() as engine:
            assert {one.id for one in await everything(engine, record)} == {"before", "meanwhile"}
    assert letters == []


async def _engine_pid(service: int) -> int:
    """Find the owner of the folder among the service's children."""
    found: list[int] = []

    def there() -> bool:
        children = Path(f"/proc/{service}/task/{service}/children").read_text().split()
        found.extend(int(pid) for pid in children if b".owner" in Path(f"/proc/{pid}/cmdline").read_bytes())
        return bool(found)

    await eventually(there)
    return found[0]
