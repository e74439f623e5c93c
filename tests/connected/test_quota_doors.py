"""Limits as clients and producers meet them: two real gateways, the simulator in the engine's place."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from nats.aio.msg import Msg
from tests.connected.test_quota import set_limits
from tests.main_path import HELLO, MODEL, MainPath, ask

from inferbus import routes
from inferbus.contracts import door
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.errors import RateLimited
from inferbus.testing import eventually

LIMITED = "rate_limit_exceeded"
BODY = {"model": MODEL, "messages": HELLO, "max_tokens": 10}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.worker(simulator_itl_s=0.005)
        yield path


async def early_in_a_minute(seconds: float = 10.0) -> None:
    while 60 - time.time() % 60 < seconds:
        await asyncio.sleep(0.1)


async def post(http: httpx.AsyncClient, url: str, key: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return await http.post(f"{url}/v1/chat/completions", json=BODY | body, headers=headers, timeout=120)


async def test_two_gateways_refuse_at_the_limit_and_say_how_it_stands(path: MainPath) -> None:
    await set_limits(path.nats, "org.dev", requests_per_minute=6, tokens_per_minute=100_000)
    await path.gateway()
    other = await path.other_gateway()
    await early_in_a_minute()
    async with httpx.AsyncClient() as http:
        answers = [await post(http, url, path.key, stream=n % 2 == 0) for n in range(3) for url in (path.url, other)]
        assert [answer.status_code for answer in answers] == [200] * 6
        for answer in answers:
            assert answer.headers["x-ratelimit-limit-requests"] == "6"
            assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
            assert 0 <= int(answer.headers["x-ratelimit-remaining-requests"]) <= 5
            assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")
        for url in (path.url, other):
            refused = await post(http, url, path.key)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert "organisation dev: the limit is 6 requests per minute" in error["message"]
    async with path.client() as client:
        with pytest.raises(openai.RateLimitError):
            await ask(client, 5)
    async with httpx.AsyncClient() as http:
        metrics = (await http.get(f"{path.url}/metrics")).text
    assert 'inferbus_gateway_rate_limited_total{limit="requests_per_minute",scope="org"}' in metrics


async def test_durable_answers_say_how_limits_stand_where_they_were_taken(path: MainPath) -> None:
    await set_limits(path.nats, "org.dev", requests_per_minute=5, tokens_per_minute=100_000)
    await path.gateway()
    await early_in_a_minute()
    url = f"{path.url}/v1/chat/completions"
    for streamed in (False, True):
        headers = {"Authorization": f"Bearer {path.key}", "Idempotency-Key": f"k-{streamed}"}
        async with httpx.AsyncClient(timeout=60) as http:
            first, again = [await http.post(url, json=BODY | {"stream": streamed}, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.headers["x-ratelimit-limit-requests"] == "5"
        assert first.headers["x-ratelimit-limit-tokens"] == "100000"
        assert 0 <= int(first.headers["x-ratelimit-remaining-requests"]) <= 4
        assert again.headers["x-inferbus-replayed"] == "true"
        assert "x-ratelimit-limit-requests" not in again.headers, "nothing was taken for it"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_producers_are_told_how_limits_stand(path: MainPath, streamed: bool, kept: bool) -> None:
    await set_limits(path.nats, "org.dev", requests_per_minute=50, tokens_per_minute=100_000)
    await path.gateway()
    await early_in_a_minute()
    bus = await path.nats.connect("dev")
    parts: list[Msg] = []

    async def on_part(message: Msg) -> None:
        parts.append(message)

    try:
        await bus.subscribe("reply.dev.me", on_part)
        headers = {door.REPLY_TO: "reply.dev.me"} | ({door.DELIVERY: "results"} if kept else {})
        subject = routes.request("dev", MODEL, routes.INTERACTIVE)
        await bus.accept(subject, json.dumps(BODY | {"stream": streamed}).encode(), headers, msg_id="one")
        await eventually(lambda: any(door.END in part.headers for part in parts), within_s=30)
    finally:
        await bus.close()
    first, *others = parts
    assert (first.headers[door.LIMIT_REQUESTS], first.headers[door.LIMIT_TOKENS]) == ("50", "100000")
    assert 0 <= int(first.headers[door.REMAINING_REQUESTS]) < 50
    assert first.headers[door.RESET_TOKENS].endswith("s")
    assert len(others) > 0 or not streamed
    assert not any(door.LIMIT_REQUESTS in part.headers for part in others), "said once, as a head does"


async def test_what_engines_spent_is_what_counts(path: MainPath) -> None:
    await set_limits(path.nats, "org.dev", tokens_per_minute=600)
    await path.gateway()
    await early_in_a_minute()
    spent = 0
    async with httpx.AsyncClient() as http:
        while (answer := await post(http, path.url, path.key)).status_code == 200:
            spent += answer.json()["usage"]["total_tokens"]
            left = int(answer.headers["x-ratelimit-remaining-tokens"])
            assert left <= 600 - spent
    assert answer.status_code == 429
    assert 300 < spent <= 600, "an estimate is reserved, and given back but for what was spent"


async def test_a_stream_its_client_left_frees_its_place(path: MainPath) -> None:
    await set_limits(path.nats, "org.dev", concurrent=1)
    await path.gateway()
    async with path.client() as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=100_000, stream=True)  # type: ignore[arg-type]  # plain dicts
        await anext(aiter(stream))
        with pytest.raises(openai.RateLimitError, match="1 requests open at once"):
            await ask(client, 5)
        await stream.close()

        async def served() -> bool:
            try:
                await ask(client, 5)
            except openai.RateLimitError:
                return False
            return True

        await eventually(served)


async def test_producers_wait_for_a_minute_s_limit_and_are_told_of_a_day_s(path: MainPath) -> None:
    await set_limits(path.nats, "org.dev", concurrent=1)
    await path.gateway()
    async with path.producer() as producer:
        both = await asyncio.gather(*(producer.chat(MODEL, HELLO, max_tokens=20) for _ in range(3)))
        assert len(both) == 3, "they came one after the other"
        await set_limits(path.nats, "org.dev", tokens_per_minute=50)

        async def hopeless() -> bool:
            try:
                await producer.chat(MODEL, HELLO, max_tokens=60)
            except RateLimited as error:
                told.append(error)
                return "this request alone may need" in error.message
            return False

        told: list[RateLimited] = []
        await eventually(hopeless, within_s=30)
        assert dict(told[-1].headers)["x-ratelimit-limit-tokens"] == "50", "the SDK's error has what the door said"
        await set_limits(path.nats, "org.dev", tokens_per_day=1)

        async def refused() -> bool:
            try:
                await producer.chat(MODEL, HELLO, max_tokens=20, lane="batch")
            except RateLimited as error:
                return "tokens per day" in error.message
            return False

        await eventually(refused, within_s=30)


async def test_what_bounds_refuse_costs_nothing(tmp_path: Path) -> None:
    entry = ModelEntry(name=MODEL, pool=MODEL, limits=Limits(max_pending_per_tenant=1))
    async with MainPath(tmp_path, entry) as path:
        await path.worker(simulator_itl_s=0.005)
        await set_limits(path.nats, "org.dev", requests_per_minute=3)
        await path.gateway()
        await early_in_a_minute()
        async with path.client() as client, httpx.AsyncClient() as http:
            stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=100_000, stream=True)  # type: ignore[arg-type]  # plain dicts
            await anext(aiter(stream))
            for _ in range(5):
                refused = await post(http, path.url, path.key)
                assert refused.json()["error"]["code"] == "tenant_overloaded"
            await stream.close()
            await path.settled()
            served = 0
            while (answer := await post(http, path.url, path.key)).json().get("error", {}).get("code") != LIMITED:
                served += answer.status_code == 200  # else the one before it is not quite over
        assert served == 2, "the stream and two more"


async def test_a_chat_without_a_bound_ends_where_it_was_reserved(tmp_path: Path) -> None:
    async with MainPath(tmp_path) as path:
        await path.worker()  # at full speed
        await set_limits(path.nats, "org.dev", tokens_per_minute=1_000_000)
        await path.gateway()
        async with httpx.AsyncClient() as http:
            answer = await post(http, path.url, path.key, max_tokens=None)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 4096
