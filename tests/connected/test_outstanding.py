"""What a killed gateway had leased of a day comes back: what the ledger says was spent stays, and nothing comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from tests.connected.test_quota import DEV, Connect, flood, set_limits, spending

from inferbus import routes
from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.windows import DAY, window_of
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.outstanding import Outstanding
from inferbus.contracts.step import Usage
from inferbus.contracts.usage import FINISHED, UsageEvent
from inferbus.ledger.names import usage_name
from inferbus.ledger.reclaiming import Reclaiming
from inferbus.testing import NatsServer, eventually

LIMIT = 10_000
HOLD_S = 0.4
WORK = routes.infer(region="local", runtime="llm", pool="m", lane="interactive", bucket=0, tenant="dev")


class Holder:
    """A quota of a gateway, and the tags of its requests."""

    def __init__(self, name: str, bus: Bus, hold_s: float) -> None:
        self.name = name
        self.open: list[int] = []
        self.next_tag = 1
        settings = QuotaSettings(hold_s=hold_s)
        self.quota = Quota(bus, settings, gateways=lambda: 2, holder=name, tags=lambda: (self.open, self.next_tag))

    async def ask(self, tokens: int) -> int:
        """Reserve for a request that stays open; returns its tag."""
        await self.quota.reserve(DEV, "m", spending(tokens))
        self.open.append(self.next_tag)
        self.next_tag += 1
        return self.open[-1]


@pytest.fixture
async def holder_of(server: NatsServer, connect: Connect) -> AsyncIterator[Callable[..., Awaitable[Holder]]]:
    made: list[Holder] = []

    async def make(name: str, hold_s: float = HOLD_S) -> Holder:
        holder = Holder(name, await connect("gateway"), hold_s)
        await holder.quota.start()
        await asyncio.wait_for(holder.quota.loaded(), 5)
        made.append(holder)
        return holder

    await set_limits(server, "org.dev", tokens_per_day=LIMIT)
    yield make
    for holder in made:
        await holder.quota.stop()


async def record_of(bus: Bus, name: str) -> Outstanding | None:
    value = await bus.kv_get(routes.KV_OUTSTANDING, name)
    return None if value is None else msgspec.json.decode(value, type=Outstanding)


async def recorded(bus: Bus, name: str, least: int) -> Outstanding:
    """Wait until a record says that at least so much is outstanding."""

    async def is_said() -> bool:
        found = await record_of(bus, name)
        return found is not None and sum(found.shares.values()) >= least

    await eventually(is_said)
    found = await record_of(bus, name)
    assert found is not None
    return found


async def charge(bus: Bus, holder: str, tag: int, tokens: int, tenant: str = "dev") -> None:
    event = UsageEvent(
        request_id=f"r{tag}", tenant=tenant, key_id="k1", team="", user="", model="m", pool="m", version="", task="chat",
        lane="interactive", prompt_tokens=tokens, completion_tokens=0, cached_tokens=0, queue_s=0.0, engine_s=0.0, cost=0,
        price_version="", outcome=FINISHED, trace_id="", at=0.0,
    )  # fmt: skip
    await bus.accept(routes.usage(tenant, "m"), to_json(event), {}, msg_id=usage_name(holder, tag))


async def reclaiming_of(connect: Connect, holder: Holder, name: str = "other") -> Reclaiming:
    bus = await connect("ledger")
    return Reclaiming(bus, name=name, clock=holder.quota.clock, counters=Counters(bus), every_s=HOLD_S, late_s=0.0)


async def counted(quota: Quota) -> int:
    window = window_of(DAY, quota.clock())
    return await quota.counters.add(routes.quota("day", "dev", "org-tpd", window), 0)


async def look_until_claimed(reclaiming: Reclaiming) -> None:
    async def is_claimed() -> bool:
        await reclaiming.look()
        return reclaiming.claimed > 0

    await eventually(is_claimed, within_s=20)


async def test_what_a_dead_gateway_did_not_spend_comes_back_once(connect: Connect, holder_of) -> None:
    dead, alive = await holder_of("dead"), await holder_of("alive")
    worker = await connect("worker")
    settled = await dead.quota.reserve(DEV, "m", spending(700))
    settled.settle(Usage(500, 0))
    tags = [await dead.ask(2000) for _ in range(4)]
    await recorded(worker_view := await connect("operator"), "dead", 8000)
    await dead.quota.keeper.die()
    await charge(worker, "dead", tags[0], 300)
    await charge(worker, "dead", tags[3] + 1, 40)  # a request the record does not know yet
    await charge(worker, "alive", tags[1], 999)
    assert len(await flood(alive.quota, 2000, callers=1)) == 0, "it is all reserved"
    many = [await reclaiming_of(connect, alive, f"other-{n}") for n in range(4)]

    async def is_claimed() -> bool:
        await asyncio.gather(*(one.look() for one in many))
        return any(one.claimed for one in many)

    await eventually(is_claimed, within_s=20)
    assert sum(one.claimed for one in many) == 1
    assert 840 <= await counted(alive.quota) <= 840 + 700, "what it settled and spent, and what its share had besides"
    for one in many:
        await one.look()
    assert await counted(alive.quota) >= 840
    record = await record_of(worker_view, "dead")
    assert record is not None
    assert record.claimed_by.startswith("other")
    assert len(await flood(alive.quota, 2000, callers=1)) == 4


async def test_nothing_comes_back_while_its_work_is_on_the_bus(connect: Connect, holder_of) -> None:
    dead, alive = await holder_of("dead"), await holder_of("alive")
    operator = await connect("operator")
    await dead.ask(5000)
    await recorded(operator, "dead", 5000)
    seq = await dead.quota.outstanding._bus.accept(WORK, b"{}", {})
    await dead.quota.keeper.die()
    reclaiming = await reclaiming_of(connect, alive)
    record = await record_of(operator, "dead")
    assert record is not None
    await eventually(lambda: alive.quota.clock() > record.until + 2 * HOLD_S)
    for _ in range(3):
        await reclaiming.look()
    assert reclaiming.claimed == 0
    await operator.remove(routes.stream_infer("local", "llm", "interactive"), seq)
    await look_until_claimed(reclaiming)
    await alive.quota.reserve(DEV, "m", spending(LIMIT))


async def test_a_gateway_that_is_only_slow_keeps_what_it_has(connect: Connect, holder_of) -> None:
    slow = await holder_of("slow")
    operator = await connect("operator")
    await slow.ask(3000)
    await recorded(operator, "slow", 3000)
    await slow.quota.keeper.die()  # it renews no more
    await eventually(lambda: slow.quota.clock() > slow.quota.outstanding.fence)
    await slow.ask(100)
    assert slow.quota.outstanding.fence > slow.quota.clock(), "asked first whether it is still its own"
    assert (await recorded(operator, "slow", 3000)).claimed_by == ""
    assert await counted(slow.quota) >= 3100


async def test_a_gateway_that_was_given_up_begins_anew_and_charges_what_it_still_spends(
    connect: Connect, holder_of
) -> None:
    frozen, alive = await holder_of("frozen"), await holder_of("alive")
    operator = await connect("operator")
    late = await frozen.quota.reserve(DEV, "m", spending(4000))
    never = await frozen.quota.reserve(DEV, "m", spending(1000))
    await recorded(operator, "frozen", 5000)
    await frozen.quota.keeper.die()
    await look_until_claimed(await reclaiming_of(connect, alive))
    before = await counted(alive.quota)
    assert before <= 500
    await frozen.ask(50)
    late.settle(Usage(600, 0))
    never.refund()

    async def is_counted() -> bool:
        return await counted(alive.quota) >= before + 650

    await eventually(is_counted)
    assert await counted(alive.quota) <= before + 650 + 100
    assert not next(iter(frozen.quota._meters.values())).lease.is_lost


async def test_a_stopped_gateway_leaves_only_what_is_open(connect: Connect, holder_of) -> None:
    leaving = await holder_of("leaving")
    operator = await connect("operator")
    await leaving.ask(1500)
    for _ in range(20):
        await leaving.quota.reserve(DEV, "m", spending(37))
    await recorded(operator, "leaving", 1500)
    await leaving.quota.stop()
    record = await record_of(operator, "leaving")
    assert record is not None
    assert list(record.shares.values()) == [1500 + 20 * 37]
    await look_until_claimed(await reclaiming_of(connect, leaving))
    assert await leaving.quota.counters.add(next(iter(record.shares)), 0) == 0


async def test_short_requests_leave_no_record(connect: Connect, holder_of) -> None:
    busy = await holder_of("busy", 60.0)
    operator = await connect("operator")
    reservation = await busy.quota.reserve(DEV, "m", spending(100))
    reservation.settle(Usage(10, 0))
    lease = next(iter(busy.quota.keeper.leases))
    await eventually(lambda: not lease.outstanding)
    assert await record_of(operator, "busy") is None


@pytest.mark.parametrize("tokens", [7, 900])
async def test_returns_wait_for_the_record_and_come_all_the_same(connect: Connect, holder_of, tokens: int) -> None:
    busy = await holder_of("busy")
    operator = await connect("operator")
    reservations = [await busy.quota.reserve(DEV, "m", spending(tokens)) for _ in range(9)]
    await recorded(operator, "busy", 9 * tokens)
    for reservation in reservations:
        reservation.settle(Usage(1, 0))

    async def is_returned() -> bool:
        return await counted(busy.quota) == 9

    await eventually(is_returned)
