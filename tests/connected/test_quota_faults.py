"""Limits when things break: clocks apart, crashes, a server that restarts or is away, and thresholds told once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import msgspec
import pytest
from tests.connected.test_quota import DEV, Connect, away_from_the_end, flood, set_limits, spending

from inferbus import routes
from inferbus.admission.quota import slots as slots_module
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.contracts.budgets import BudgetThreshold
from inferbus.contracts.prices import Price
from inferbus.contracts.step import Usage
from inferbus.errands import Errands
from inferbus.errors import DependencyDown, RateLimited
from inferbus.facts import Facts
from inferbus.testing import NatsServer, eventually
from inferbus_gateway.budget_alerts import SIGNATURE, Webhook, signature

MakeQuota = Callable[..., Awaitable[Quota]]


@pytest.fixture
async def quota_of(connect: Connect) -> AsyncIterator[MakeQuota]:
    """Make quotas, each with a connection of its own, as one of two gateways."""
    made: list[Quota] = []

    async def make(settings: QuotaSettings | None = None, **options: object) -> Quota:
        quota = Quota(await connect("gateway"), settings or QuotaSettings(), gateways=lambda: 2, **options)  # type: ignore[arg-type]  # passed on
        await quota.start()
        await asyncio.wait_for(quota.loaded(), 5)
        made.append(quota)
        return quota

    yield make
    for quota in made:
        await quota.stop()


async def admitted(quota: Quota, tokens: int) -> bool:
    try:
        await quota.reserve(DEV, "m", spending(tokens))
    except (RateLimited, DependencyDown):
        return False
    return True


async def test_a_machine_s_clock_does_not_matter(
    server: NatsServer, quota_of: MakeQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_limits(server, "org.dev", tokens_per_minute=1000)
    one = await quota_of()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 290)
    late = await quota_of()
    assert abs(late.clock() - one.clock()) < 0.5
    assert abs(late.clock() - real()) < 5, "both go by the server, which is on this machine"
    await away_from_the_end(one)
    both = await asyncio.gather(flood(one, 10), flood(late, 10))
    assert 950 <= 10 * sum(len(got) for got in both) <= 1000


async def test_a_server_that_restarts_doubles_nothing(server: NatsServer, quota_of: MakeQuota) -> None:
    await set_limits(server, "org.dev", tokens_per_minute=60_000)
    quotas = [await quota_of(), await quota_of()]
    await away_from_the_end(quotas[0], 25)
    given = 0
    over = asyncio.Event()

    async def call(quota: Quota) -> None:
        nonlocal given
        while not over.is_set():
            try:
                await quota.reserve(DEV, "m", spending(37))
                given += 37
                await asyncio.sleep(0.01)
            except (RateLimited, DependencyDown):
                await asyncio.sleep(0.05)

    callers = [asyncio.create_task(call(quota)) for quota in quotas for _ in range(8)]
    await eventually(lambda: given > 5_000, within_s=20)
    window = quotas[0].clock() // 60
    await server.restart(signal.SIGKILL)
    before = given
    await eventually(lambda: given > before + 15_000, within_s=20)
    over.set()
    await asyncio.gather(*callers)
    both = await asyncio.gather(*(flood(quota, 37) for quota in quotas))
    given += 37 * sum(len(got) for got in both)
    assert quotas[0].clock() // 60 == window, "it took too long to say anything"
    assert given <= 60_000
    assert given > 40_000, "what a lost answer strands is a share, not the limit"


async def test_a_crash_strands_its_share_until_the_window_ends_and_its_slots_for_seconds(
    server: NatsServer, connect: Connect, quota_of: MakeQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "HOLD_S", 2.0)
    await set_limits(server, "org.dev", tokens_per_minute=10_000, concurrent=4)
    bus = await connect("gateway")
    dead = Quota(bus, QuotaSettings(), gateways=lambda: 2)
    await dead.start()
    await dead.loaded()
    await away_from_the_end(dead, 20)
    for _ in range(4):
        await dead.reserve(DEV, "m", spending(100))
    alive = await quota_of()
    assert not await admitted(alive, 1), "all slots are the other's"
    await dead.keeper.die()
    await bus.close()
    await eventually(lambda: admitted(alive, 1), within_s=15)
    assert await admitted(alive, 1), "its slots are there, so that it keeps its lease for a moment"
    seen = next(iter(alive.keeper.leases)).share
    assert seen.seen - seen.held <= 10_000 // 4 + 400, "the dead one's share is a fraction"


@pytest.mark.parametrize(("setting", "more"), [("closed", 0), ("open", 1)])
async def test_without_counters_the_setting_decides(
    server: NatsServer, quota_of: MakeQuota, setting: str, more: int
) -> None:
    await set_limits(server, "org.dev", tokens_per_minute=1000)
    quota = await quota_of(QuotaSettings(when_unreachable=setting))  # type: ignore[arg-type]  # one of the two
    await away_from_the_end(quota, 20)
    assert await admitted(quota, 100)
    await server.kill()
    await eventually(lambda: not quota.connected)
    lease = next(iter(quota.keeper.leases))
    local = lease.share.free
    got = 0
    if local >= 10:
        assert await admitted(quota, 10), "its own share is good in any case"
        got += 10
    while await admitted(quota, 50):
        got += 50
    assert got <= (500 - 100 if more else local), "half of the limit is its equal part"
    assert bool(got > local) is bool(more)
    with pytest.raises(RateLimited if more else DependencyDown):
        await quota.reserve(DEV, "m", spending(501))
    await server.start()
    await eventually(lambda: quota.connected)
    if more:  # what was lent is counted (and the lease may be gone as soon as it is)

        async def counted() -> bool:
            return await quota.counters.add(lease.subject, 0) >= 100 + got

        await eventually(counted, within_s=10)


async def test_a_threshold_is_told_once_by_all_gateways(
    server: NatsServer, connect: Connect, quota_of: MakeQuota
) -> None:
    await set_limits(server, "org.dev", tokens_per_day=1000, money_per_month=10_000_000)
    bus, errands = await connect("gateway"), Errands()
    price = Price(input=1_000_000, output=2_000_000, version="v1")
    facts = Facts(bus, "gateway", errands)
    quotas = [await quota_of(listeners=[facts.budget_passed], price_of=lambda _: price) for _ in range(2)]
    for number in range(9):
        reservation = await quotas[number % 2].reserve(DEV, "m", spending(60, 40))
        reservation.settle(Usage(60, 40))
        await asyncio.sleep(0.05)
    subject = routes.event("gateway", routes.FACT_BUDGET_THRESHOLD)

    operator: Bus = await connect("operator")

    async def is_told() -> bool:
        return bool(await read_stored(operator, routes.STREAM_EVENTS, subject))

    await eventually(is_told)
    [stored] = await read_stored(operator, routes.STREAM_EVENTS, subject)
    event = msgspec.json.decode(stored.data, type=BudgetThreshold)
    assert (event.scope, event.limit_name, event.percent, event.limit) == ("org.dev", "tokens_per_day", 80, 1000)
    assert 800 <= event.spent <= 900
    await quotas[0].reserve(DEV, "m", spending(60, 40))
    with pytest.raises(RateLimited, match="tokens per day"):
        await quotas[1].reserve(DEV, "m", spending(60, 40))
    await errands.stop()


async def test_money_is_reserved_at_its_price(server: NatsServer, quota_of: MakeQuota) -> None:
    await set_limits(server, "key.k1", money_per_month=1_000)
    quota = await quota_of(price_of=lambda _: Price(input=1_000_000, output=2_000_000))
    reservation = await quota.reserve(DEV, "m", spending(500, 250))
    with pytest.raises(RateLimited, match="this key: the limit is 1000 micro-units of money per month"):
        await quota.reserve(DEV, "m", spending(1))
    reservation.settle(Usage(500, 0))
    await quota.reserve(DEV, "m", spending(500))
    with pytest.raises(RateLimited):
        await quota.reserve(DEV, "m", spending(1))


async def test_a_webhook_is_signed_and_tried_again() -> None:
    heard: list[tuple[bytes, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((body, self.headers[SIGNATURE]))
            self.send_response(500 if len(heard) < 3 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=receiver.serve_forever, daemon=True).start()
    errands = Errands()
    hook = Webhook(f"http://127.0.0.1:{receiver.server_port}/", "s3cret", errands, first_pause_s=0.01)
    hook.budget_passed(
        BudgetThreshold(
            tenant="dev",
            scope="org.dev",
            limit_name="tokens_per_day",
            span="day",
            window=1,
            percent=80,
            limit=10,
            spent=8,
        )
    )
    await eventually(lambda: len(heard) == 3)
    await errands.stop()
    receiver.shutdown()
    receiver.server_close()
    assert {sent for _, sent in heard} == {signature("s3cret", heard[0][0])}
    assert json.loads(heard[0][0])["percent"] == 80
