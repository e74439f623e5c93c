"""The totals over a real server: whatever dies, and however many add up at once, they are the sum of the events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from tests.connected.conftest import Connect
from tests.connected.test_usage_events import make_event

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.usage import Figures, Total, UsageEvent
from inferbus.ledger.reading import Query, Verdict, read_totals, sum_up, verify
from inferbus.ledger.rows import key_of_row, summed
from inferbus.ledger.totaling import AnotherStream, Totaling
from inferbus.testing import NatsServer, eventually

WITHIN_S = 30.0


def some_event(rng: random.Random) -> UsageEvent:
    tokens = rng.randrange(100)
    return msgspec.structs.replace(
        make_event(), tenant=rng.choice(["dev", "acme"]), team=rng.choice(["", "core"]), key_id=rng.choice(["k1", "k2"]),
        model=rng.choice(["m", "org/big"]), at=1_763_750_000.0 + 86_400 * rng.randrange(3), completion_tokens=tokens,
        cost=rng.randrange(50),
    )  # fmt: skip


async def write(bus: Bus, events: list[UsageEvent]) -> None:
    for event in events:
        await bus.accept(routes.usage(event.tenant, event.pool), to_json(event), {})


def figures_of(events: list[UsageEvent]) -> Figures:
    return sum((event.figures for event in events), Figures())


def totaling(bus: Bus, name: str) -> Totaling:
    return Totaling(bus, name=name, registry=CollectorRegistry(), every_s=0.05, yield_s=0.3)


@asynccontextmanager
async def running(bus: Bus, name: str) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    task = asyncio.create_task(totaling(bus, name).run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await task


async def has_all(bus: Bus, events: list[UsageEvent]) -> bool:
    return summed(await read_totals(bus)) == figures_of(events)


def is_right(verdict: Verdict, events: int) -> bool:
    return verdict.differences == [] and verdict.waiting == 0 and verdict.events == events


async def test_totals_are_the_sum_of_the_events(connect: Connect) -> None:
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    events = [some_event(random.Random(n)) for n in range(700)]  # more than one page
    async with running(ledger, "l-0"):
        await write(worker, events)
        await eventually(lambda: has_all(admin, events), within_s=WITHIN_S)
    assert is_right(await verify(admin), 700)
    rows = await read_totals(admin)
    assert len(rows) == 2 * 2 * 2 * 2 * 3
    (dev,) = sum_up(await read_totals(admin, "dev"), Query(by=("org",)))
    assert dev.org == "dev"
    assert dev.figures == figures_of([event for event in events if event.tenant == "dev"])


async def test_killed_anywhere_it_counts_everything_once(connect: Connect) -> None:
    """Steps are ended at any await, as a kill would, while others run beside them."""
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    rng = random.Random(7)
    events = [some_event(rng) for _ in range(600)]
    writing = asyncio.create_task(write(worker, events))
    kills = 0
    while kills < 60 or not writing.done():
        steps = [asyncio.create_task(totaling(ledger, f"l-{kills}-{n}").step()) for n in range(2)]
        await asyncio.wait(steps, timeout=rng.uniform(0.001, 0.03))
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        kills += 1
    await writing
    async with running(ledger, "last"):
        await eventually(lambda: has_all(admin, events), within_s=WITHIN_S)
    assert is_right(await verify(admin), 600)


async def test_several_at_once_count_once(connect: Connect) -> None:
    worker, admin = await connect("worker"), await connect("admin")
    events = [some_event(random.Random(n)) for n in range(400)]
    async with running(await connect("ledger"), "a"), running(await connect("ledger"), "b"):
        async with running(await connect("ledger"), "c"):
            await write(worker, events[:200])
            await eventually(lambda: has_all(admin, events[:200]), within_s=WITHIN_S)
        await write(worker, events[200:])
        await eventually(lambda: has_all(admin, events), within_s=WITHIN_S)
    assert is_right(await verify(admin), 400)


async def test_while_nothing_happens_it_only_listens(
    server: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    looks = 0
    step = Totaling.step

    async def counted(self: Totaling) -> bool:
        nonlocal looks
        looks += 1
        return await step(self)

    monkeypatch.setattr(Totaling, "step", counted)
    async with running(ledger, "a"):
        await eventually(lambda: looks == 2)  # the second look is the one with the bell armed
        await asyncio.sleep(0.5)  # ten times `every_s`
        assert looks == 2
        events = [some_event(random.Random(n)) for n in range(3)]
        await write(worker, events)
        await eventually(lambda: has_all(admin, events))
        looks_before = looks
        await server.restart()
        await eventually(lambda: looks > looks_before, within_s=10.0)  # what was stored meanwhile was not heard


async def test_it_goes_on_after_the_server_was_killed(server: NatsServer, connect: Connect) -> None:
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    events = [some_event(random.Random(n)) for n in range(300)]
    async with running(ledger, "a"):
        for i in range(0, 300, 100):
            await write(worker, events[i : i + 100])
            await server.restart()
            await worker.wait_connected(10)
        await eventually(lambda: has_all(admin, events), within_s=WITHIN_S)
    assert is_right(await verify(admin), 300)


@pytest.mark.parametrize("change", [Figures(requests=1), Figures(cost=-1)])
async def test_verify_finds_a_wrong_row(connect: Connect, change: Figures) -> None:
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    events = [some_event(random.Random(n)) for n in range(50)]
    await write(worker, events)
    await totaling(ledger, "a").step()
    row = (await read_totals(admin))[3]
    wrong = msgspec.structs.replace(row, figures=row.figures + change)
    await ledger.kv_put(routes.KV_TOTALS, key_of_row(row), to_json(wrong))
    (difference,) = (await verify(admin)).differences
    assert (difference.row, difference.recounted) == (wrong, row.figures)


async def test_verify_finds_a_missing_row(connect: Connect) -> None:
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    await write(worker, [make_event()])
    await totaling(ledger, "a").step()
    (row,) = await read_totals(admin)
    await ledger.kv_put(routes.KV_LEDGER, "place", b'{"type":"usage.place.v1","upto":2,"by":"x"}')
    other = msgspec.structs.replace(make_event(), team="lost")
    await write(worker, [other])
    (difference,) = (await verify(admin)).differences
    assert difference.recounted == other.figures
    assert difference.row == Total(tenant="dev", team="lost", key_id="k", model="m", day=row.day)
    assert (await read_totals(admin)) == [row]


async def test_events_that_are_none_are_left_out(connect: Connect) -> None:
    ledger, worker, admin = await connect("ledger"), await connect("worker"), await connect("admin")
    await worker.accept(routes.usage("dev", "m"), b"\xff", {})
    await write(worker, [make_event()])
    await totaling(ledger, "a").step()
    assert await has_all(admin, [make_event()])


async def test_a_stream_made_anew_is_not_added_to_the_old_totals(server: NatsServer, connect: Connect) -> None:
    ledger, worker, admin, operator = [await connect(role) for role in ("ledger", "worker", "admin", "operator")]
    await write(worker, [make_event()] * 3)
    await totaling(ledger, "a").step()
    await operator.request(f"$JS.API.STREAM.DELETE.{routes.STREAM_USAGE}")
    await server.reconcile()
    await write(worker, [make_event()] * 5)
    with pytest.raises(AnotherStream):
        await totaling(ledger, "b").step()
    assert await has_all(admin, [make_event()] * 3)
    for bucket in (routes.KV_TOTALS, routes.KV_LEDGER):
        await operator.request(f"$JS.API.STREAM.PURGE.{routes.kv_stream(bucket)}")
    await totaling(ledger, "c").step()
    assert await has_all(admin, [make_event()] * 5)
