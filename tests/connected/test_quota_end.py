"""The end of a limit: what some gateways have free comes to the one that needs it, so that less than a request's need is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.connected.test_quota import DEV, Connect, away_from_the_end, set_limits, spending

from inferbus import routes
from inferbus.admission.quota.quota import Quota
from inferbus.admission.quota.settings import QuotaSettings
from inferbus.contracts.step import Usage
from inferbus.errors import RateLimited
from inferbus.testing import NatsServer, eventually

ESTIMATE, USED = 129, 30
MakeQuotas = Callable[[int], Awaitable[list[Quota]]]


@pytest.fixture
async def quotas_of(server: NatsServer, connect: Connect) -> AsyncIterator[MakeQuotas]:
    """Make the quotas of so many gateways, each with a connection of its own."""
    made: list[Quota] = []

    async def make(count: int) -> list[Quota]:
        for number in range(count):
            quota = Quota(await connect("gateway"), QuotaSettings(), gateways=lambda: count, holder=f"g{number}")
            await quota.start()
            await asyncio.wait_for(quota.loaded(), 5)
            made.append(quota)
        return made

    yield make
    for quota in made:
        await quota.stop()


@pytest.mark.parametrize("gateways", [1, 2, 5])
async def test_less_than_a_request_s_need_is_left(server: NatsServer, quotas_of: MakeQuotas, gateways: int) -> None:
    limit = 3000
    await set_limits(server, "key.k1", tokens_per_minute=limit)
    quotas = await quotas_of(gateways)
    await away_from_the_end(quotas[0], 15)
    spent = reserved = 0

    async def call() -> None:
        nonlocal spent, reserved
        refused = 0
        while refused < 5:
            await asyncio.sleep(random.random() * 0.002)
            try:
                reservation = await random.choice(quotas).reserve(DEV, "m", spending(ESTIMATE - 24, 24))
            except RateLimited:
                refused += 1
                continue
            reserved += ESTIMATE
            assert spent + reserved <= limit
            await asyncio.sleep(0.01 + random.random() * 0.02)
            reserved -= ESTIMATE
            spent += USED
            reservation.settle(Usage(6, 24))

    await asyncio.gather(*(call() for _ in range(8)))
    assert limit - spent < 2 * ESTIMATE, "as a rule less than one; callers may all have gone while the last one settled"

    async def is_used_up() -> bool:
        """Whoever still asks gets it, whichever gateway he asks."""
        nonlocal spent
        try:
            reservation = await random.choice(quotas).reserve(DEV, "m", spending(ESTIMATE - 24, 24))
        except RateLimited:
            return limit - spent < ESTIMATE
        reservation.settle(Usage(6, 24))
        spent += USED
        return False

    await eventually(is_used_up)
    assert limit - ESTIMATE < spent <= limit


async def test_what_a_quiet_gateway_has_free_is_called_in_at_once(server: NatsServer, quotas_of: MakeQuotas) -> None:
    await set_limits(server, "key.k1", tokens_per_minute=1000)
    quiet, busy = await quotas_of(2)
    await away_from_the_end(quiet)
    reservation = await quiet.reserve(DEV, "m", spending(600))
    reservation.settle(Usage(100, 0))
    began = time.monotonic()
    await busy.reserve(DEV, "m", spending(850))
    assert time.monotonic() - began < 0.2, "not at the quiet one's next tick"
    with pytest.raises(RateLimited):
        await quiet.reserve(DEV, "m", spending(51))
    await quiet.reserve(DEV, "m", spending(50))


async def test_who_was_refused_hears_of_what_comes_back(server: NatsServer, quotas_of: MakeQuotas) -> None:
    await set_limits(server, "key.k1", tokens_per_minute=1000)
    other, refused = await quotas_of(2)
    await away_from_the_end(other)
    reservation = await other.reserve(DEV, "m", spending(900))
    for _ in range(8):  # each time it would be silent for longer
        with pytest.raises(RateLimited):
            await refused.reserve(DEV, "m", spending(200))
        await asyncio.sleep(0.1)
    reservation.settle(Usage(300, 0))
    began = time.monotonic()

    async def is_admitted() -> bool:
        try:
            await refused.reserve(DEV, "m", spending(650))
        except RateLimited:
            return False
        return True

    await eventually(is_admitted)
    assert time.monotonic() - began < 0.2


async def test_of_a_day_it_is_called_in_and_no_record_speaks_of_it(server: NatsServer, quotas_of: MakeQuotas) -> None:
    await set_limits(server, "key.k1", tokens_per_day=1000)
    quiet, busy = await quotas_of(2)
    reservation = await quiet.reserve(DEV, "m", spending(600))
    await quiet.outstanding.write(quiet.keeper.leases)
    lease = next(iter(quiet.keeper.leases))
    assert lease.recorded >= 600
    reservation.settle(Usage(100, 0))
    await busy.reserve(DEV, "m", spending(850))
    assert lease.recorded <= lease.share.free + lease.out, "what a ledger would give back is still there"
    counter = routes.quota("day", "dev", "key-k1-tpd", int(quiet.clock() // 86_400))
    assert await quiet.counters.add(counter, 0) <= 1000


async def test_a_gateway_that_is_gone_is_not_waited_for(server: NatsServer, quotas_of: MakeQuotas) -> None:
    await set_limits(server, "key.k1", tokens_per_minute=1000)
    gone, alive = await quotas_of(2)
    await away_from_the_end(gone)
    await gone.reserve(DEV, "m", spending(700))
    await gone.keeper.die()
    await gone.calling.stop()
    began = time.monotonic()
    with pytest.raises(RateLimited):
        await alive.reserve(DEV, "m", spending(400))
    assert time.monotonic() - began < 0.5
    await alive.reserve(DEV, "m", spending(100))
