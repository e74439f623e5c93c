"""Gateways are killed with requests open under a limit of a day: what these did not spend comes back, and no more."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import msgspec
import pytest
from openai import APIError, AsyncOpenAI, RateLimitError
from tests.connected.test_quota import set_limits
from tests.connected.test_usage_events import events
from tests.main_path import HELLO, MODEL, MainPath

from inferbus import routes
from inferbus.admission.quota.windows import DAY, window_of
from inferbus.bus import Bus
from inferbus.bus.server_clock import server_time
from inferbus.bus.stored import read_stored
from inferbus.contracts.outstanding import Outstanding
from inferbus.testing import eventually

LIMIT = 200_000
LONG = 18_000
KILLS = 3
STRANDED = 3_000
"""What a kill may cost: tokens leased since the last record, and what short requests that it cut off had reserved."""


async def counted(bus: Bus) -> int:
    """Read the counter of the day: adding nothing is answered with its value."""
    subject = routes.quota(
        "day", "dev", "org-tpd", window_of(DAY, (await server_time(bus, routes.STREAM_QUOTA)).timestamp())
    )
    answer = await bus.request(subject, b"", {"Nats-Incr": "+0"})
    return int(answer.data.split(b'"val":"')[1].split(b'"')[0])


async def ask(client: AsyncOpenAI, tokens: int) -> int:
    """Ask for so many tokens; returns what the answer took."""
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=tokens)  # type: ignore[arg-type]  # plain dicts
    assert answer.usage is not None
    return answer.usage.total_tokens


async def is_recorded(bus: Bus, least: int) -> bool:
    """Whether some gateway has said that it has so much outstanding."""
    stream, subject = routes.kv_stream(routes.KV_OUTSTANDING), routes.kv_subject(routes.KV_OUTSTANDING, "*")
    records = [msgspec.json.decode(one.data, type=Outstanding) for one in await read_stored(bus, stream, subject)]
    return any(sum(record.shares.values()) >= least for record in records)


async def is_counted_below(bus: Bus, amount: int) -> bool:
    return await counted(bus) < amount


async def is_admitted(client: AsyncOpenAI, tokens: int) -> bool:
    """Whether a request that may need so many tokens is admitted; it is given up at once."""
    try:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=tokens, stream=True)  # type: ignore[call-overload]  # plain dicts
    except (RateLimitError, APIError):
        return False
    await stream.close()
    return True


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_reservations_of_killed_gateways_come_back(tmp_path: Path) -> None:
    rng = random.Random(5)
    async with MainPath(tmp_path) as path:
        path.start_s = 60.0
        path.env = {"INFERBUS_QUOTA_HOLD_S": "2"}
        operator = await path.nats.connect("operator")
        await set_limits(path.nats, "org.dev", tokens_per_day=LIMIT)
        gateway = await path.gateway()
        alive_url = f"{await path.other_gateway()}/v1"
        await path.ledger("ledger-0", reclaim_every_s=1.0, reclaim_late_s=1.0)
        await path.ledger("ledger-1", reclaim_every_s=1.0, reclaim_late_s=1.0)
        await path.worker(simulator_itl_s=0.02)
        answered = 0

        async def ask_on(client: AsyncOpenAI) -> None:
            nonlocal answered
            while True:
                try:
                    answered += await ask(client, rng.randrange(1, 40))
                except (APIError, httpx.HTTPError):  # its gateway was killed, or the limit is reserved
                    await asyncio.sleep(0.1)  # the pace of a client that tries again

        async with path.client() as client, AsyncOpenAI(base_url=alive_url, api_key=path.key, max_retries=0) as other:
            asking = [asyncio.create_task(ask_on(one)) for one in (client, other, other)]
            for _ in range(KILLS):
                long = [asyncio.create_task(ask(client, LONG)) for _ in range(8)]

                await eventually(lambda: is_recorded(operator, 8 * LONG), within_s=30)
                assert not await is_admitted(other, LIMIT // 2), "all of it is reserved"
                await asyncio.sleep(rng.uniform(0, 1))  # anywhere between two writes of the record
                await gateway.kill()
                await asyncio.gather(*long, return_exceptions=True)
                gateway = await path.gateway()
                await eventually(lambda: is_admitted(other, LIMIT // 2), within_s=60)
                await eventually(lambda: is_counted_below(operator, LIMIT // 5), within_s=30)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        await path.settled(within_s=60)
        found = await events(operator)
        charged = sum(event.prompt_tokens + event.completion_tokens for event in found)
        wasted = sum(event.wasted_tokens for event in found)
        claims = sum(path.log(name).count("dead_gateway_given_back") for name in ("ledger-0", "ledger-1"))
        await eventually(lambda: is_counted_below(operator, charged + wasted + KILLS * STRANDED), within_s=20)
        kept = await counted(operator)
        print(
            f"{KILLS} kills: answered {answered}, charged {charged}, wasted {wasted}, counted {kept}, claims {claims}"
        )
        assert claims == KILLS
        assert answered <= charged <= kept <= LIMIT
        await operator.close()
