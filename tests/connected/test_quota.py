"""Limits on a real bus: two gateways' quotas, clocks apart, crashes, a server that restarts or is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from inferbus import routes
from inferbus.admission.identity import Identity
from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.reservation import Reservation
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.admission.quota.tokens import Estimate
from inferbus.bus import Bus
from inferbus.contracts.limits import LimitSet
from inferbus.contracts.step import Usage
from inferbus.errors import RateLimited
from inferbus.testing import NatsServer, eventually

DEV = Identity(tenant="dev", key_id="k1")
Connect = Callable[[str], Awaitable[Bus]]


async def set_limits(server: NatsServer, key: str, **limits: int) -> None:
    bus = await server.connect("operator")
    try:
        await bus.kv_put(routes.KV_LIMITS, key, msgspec.json.encode(LimitSet(**limits)))
    finally:
        await bus.close()


@pytest.fixture
async def quota_of(server: NatsServer, connect: Connect) -> AsyncIterator[Callable[..., Awaitable[Quota]]]:
    """Make quotas, each with a connection of its own."""
    made: list[Quota] = []

    async def make(*, gateways: int = 2, settings: QuotaSettings | None = None, **options: object) -> Quota:
        quota = Quota(await connect("gateway"), settings or QuotaSettings(), gateways=lambda: gateways, **options)
        await quota.start()
        await asyncio.wait_for(quota.book.loaded(), 5)
        made.append(quota)
        return quota

    yield make
    for quota in made:
        await quota.stop()


def spending(prompt: int, completion: int = 0) -> Callable[[], Estimate]:
    return lambda: Estimate(prompt, completion)


async def away_from_the_end(quota: Quota, seconds: float = 8.0) -> None:
    """Begin early enough in a minute that the test does not cross into the next."""
    while 60 - quota.clock() % 60 < seconds:
        await asyncio.sleep(0.1)


async def flood(quota: Quota, tokens: int, callers: int = 16) -> list[Reservation]:
    """Reserve until refused, from many callers at once."""
    got: list[Reservation] = []

    async def call() -> None:
        while True:
            try:
                got.append(await quota.reserve(DEV, "m", spending(tokens)))
            except RateLimited:
                return

    await asyncio.gather(*(call() for _ in range(callers)))
    return got


async def test_without_limits_nothing_is_asked(quota_of) -> None:
    quota = await quota_of()
    before = quota.counters.calls
    reservation = await quota.reserve(DEV, "m", spending(10))
    reservation.settle(Usage(1, 1))
    assert (reservation.headers(), quota.counters.calls) == ((), before)


async def test_two_gateways_share_one_limit(server: NatsServer, quota_of) -> None:
    await set_limits(server, "org.dev", tokens_per_minute=100_000)
    one, two = await quota_of(), await quota_of()
    await away_from_the_end(one)
    both = await asyncio.gather(flood(one, 7), flood(two, 13))
    spent = 7 * len(both[0]) + 13 * len(both[1])
    assert 95_000 <= spent <= 100_000
    assert min(len(got) for got in both) > 0


async def test_what_is_not_spent_can_be_had_again(server: NatsServer, quota_of) -> None:
    await set_limits(server, "key.k1", tokens_per_minute=1000)
    one, two = await quota_of(), await quota_of()
    await away_from_the_end(one)
    reservation = await one.reserve(DEV, "m", spending(200, 800))
    with pytest.raises(RateLimited, match="this key: the limit is 1000 tokens per minute") as refused:
        await two.reserve(DEV, "m", spending(10))
    assert 0 < refused.value.retry_after_s <= 60
    assert ("x-ratelimit-limit-tokens", "1000") in refused.value.headers
    reservation.settle(Usage(100, 50))
    reservation.refund()  # too late: it is settled

    async def admitted() -> bool:
        try:
            await two.reserve(DEV, "m", spending(850))
        except RateLimited:
            return False
        return True

    await eventually(admitted)
    with pytest.raises(RateLimited):
        await two.reserve(DEV, "m", spending(1))


async def test_requests_are_all_or_nothing_over_scopes(server: NatsServer, quota_of) -> None:
    await set_limits(server, "org.dev", requests_per_minute=5)
    await set_limits(server, "model.m", tokens_per_minute=100)
    quota = await quota_of(gateways=1)
    await away_from_the_end(quota)
    for _ in range(8):
        with pytest.raises(RateLimited, match="model m"):
            await quota.reserve(DEV, "m", spending(101))
    for _ in range(5):
        reservation = await quota.reserve(DEV, "m", spending(20))
    assert dict(reservation.headers())["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(RateLimited, match="organisation dev: the limit is 5 requests per minute"):
        await quota.reserve(DEV, "m", spending(0))


async def test_open_requests_are_bounded_over_gateways(server: NatsServer, quota_of) -> None:
    await set_limits(server, "org.dev", concurrent=6)
    one, two = await quota_of(), await quota_of()
    got = [await one.reserve(DEV, "m", spending(1)) for _ in range(4)]
    got += [await two.reserve(DEV, "m", spending(1)) for _ in range(2)]
    for quota in (one, two):
        with pytest.raises(RateLimited, match="6 requests open at once"):
            await quota.reserve(DEV, "m", spending(1))
    got[0].settle(Usage())

    async def admitted() -> bool:
        try:
            await two.reserve(DEV, "m", spending(1))
        except RateLimited:
            return False
        return True

    await eventually(admitted)


async def test_counters_answer_a_repeated_id_with_the_value(server: NatsServer, connect: Connect) -> None:
    counters = Counters(await connect("gateway"))
    subject = routes.quota("minute", "dev", "x", 1)
    assert await counters.add(subject, 5, msg_id="a") == 5
    assert await counters.add(subject, 7) == 12
    assert await counters.add(subject, 5, msg_id="a") == 12, "counted once"
