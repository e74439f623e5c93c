"""Cancelling with real vLLM: the engine stops at once, and what it had spent is told by its own count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from tests.running_platform import CHAT, RunningPlatform, metric_at
from tests.told_facts import told_facts

from inferbus.contracts.facts import RequestCancelled
from inferbus.testing import eventually

QUESTION = [{"role": "user", "content": "Explain open."}]
ENDLESS: dict[str, Any] = {
    "model": CHAT, "messages": QUESTION, "max_tokens": 1900, "extra_body": {"ignore_eos": True},
}  # fmt: skip
SLOTS = 32
WAYS = {
    "direct": {"stream": True},
    "through vLLM's application": {"stream": True, "logprobs": True},
    "two choices": {"stream": True, "logprobs": True, "n": 2},
    "unstreamed": {"stream": False},
    "unstreamed, two choices": {"stream": False, "n": 2},
}


@pytest.fixture
async def http(platform: RunningPlatform) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {platform.key}"}
    async with httpx.AsyncClient(base_url=platform.url, headers=headers, timeout=30) as http:
        yield http


def running(platform: RunningPlatform) -> float:
    port = platform.port("llm-0")
    return metric_at(port, "inferbus_worker_running") + metric_at(port, "inferbus_worker_waiting")


async def asked(client: AsyncOpenAI, request_id: str, **options: Any) -> str:
    """Ask to the end; gives the code of the error that ended it."""
    headers = {"X-Request-Id": request_id}
    try:
        answer = await client.chat.completions.create(**(ENDLESS | options), extra_headers=headers)
        if options["stream"]:
            async for _ in answer:
                pass
    except openai.APIError as error:
        return str(error.code)
    return ""


async def told(platform: RunningPlatform, request_id: str) -> RequestCancelled:
    """Wait for the one event of a request."""
    found: list[RequestCancelled] = []

    async def is_told() -> bool:
        async with platform.bus("operator") as bus:
            found[:] = [one.event for one in await told_facts(bus) if one.event.request_id == request_id]
        return bool(found)

    await eventually(is_told, within_s=5)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("way", list(WAYS))
async def test_while_it_decodes(
    platform: RunningPlatform, async_client: AsyncOpenAI, http: httpx.AsyncClient, way: str
) -> None:
    usage = (await async_client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=1)).usage
    assert usage is not None
    request_id = f"decode-{list(WAYS).index(way)}"
    port = platform.port("llm-0")
    task = asyncio.create_task(asked(async_client, request_id, **WAYS[way]))
    await eventually(lambda: running(platform) == WAYS[way].get("n", 1), within_s=10)
    before = metric_at(port, "inferbus_worker_kv_cache_usage")
    await eventually(lambda: metric_at(port, "inferbus_worker_kv_cache_usage") > before, within_s=10)  # it grows
    assert (await http.post(f"/v1/requests/{request_id}/cancel")).json()["status"] == "cancelled"
    assert await asyncio.wait_for(task, 5) == "cancelled"
    await eventually(lambda: running(platform) == 0, within_s=5)
    event = await told(platform, request_id)
    assert (event.phase, event.reason, event.attempt, event.pool) == ("decode", "cancelled", 1, CHAT)
    assert event.prompt_tokens == usage.prompt_tokens
    assert event.completion_tokens is not None
    assert 0 < event.completion_tokens < 1900 * int(WAYS[way].get("n", 1))


async def test_while_it_waits_for_a_slot(
    platform: RunningPlatform, async_client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    busy = [asyncio.create_task(asked(async_client, f"busy-{n}", stream=True)) for n in range(SLOTS)]
    try:
        await eventually(lambda: running(platform) >= SLOTS, within_s=20)
        waiting = [asyncio.create_task(asked(async_client, f"queued-{n}", stream=bool(n % 2))) for n in range(12)]
        gateway = platform.port("gateway-0")
        await eventually(
            lambda: metric_at(gateway, "inferbus_gateway_pool_open_requests", pool=CHAT) == SLOTS + 12, within_s=30
        )
        for n in range(12):
            assert (await http.post(f"/v1/requests/queued-{n}/cancel")).json()["status"] == "cancelled"
        assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == ["cancelled"] * 12
        events = [await told(platform, f"queued-{n}") for n in range(12)]
        # The worker's pulls over-order by a few slots; those wait inside the engine.
        assert {event.phase for event in events} <= {"queued", "prefill"}
        assert sum(event.phase == "queued" for event in events) >= 2
        assert all(event.completion_tokens == 0 for event in events)
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
    await eventually(lambda: running(platform) == 0, within_s=5)


async def test_as_early_as_one_can(
    platform: RunningPlatform, async_client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """Long prompts, cancelled as soon as a gateway knows them: whatever phase it is, it is told once and adds up."""
    prompt = [{"role": "user", "content": "word " * 1700}]
    for n in range(8):
        request_id = f"early-{n}"
        task = asyncio.create_task(asked(async_client, request_id, stream=bool(n % 2), messages=prompt, max_tokens=200))

        async def is_cancelled(request_id: str = request_id) -> bool:
            return (await http.post(f"/v1/requests/{request_id}/cancel")).status_code == 200

        await eventually(is_cancelled, within_s=5)
        assert await asyncio.wait_for(task, 5) == "cancelled"
        event = await told(platform, request_id)
        assert event.phase in ("queued", "prefill", "decode")
        assert bool(event.completion_tokens) == (event.phase == "decode")
        if event.phase == "decode" or event.prompt_tokens:  # in prefill the engine need not have counted them yet
            assert (event.prompt_tokens or 0) > 1000
    await eventually(lambda: running(platform) == 0, within_s=5)
