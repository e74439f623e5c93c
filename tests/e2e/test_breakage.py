"""What is broken on purpose, and what users notice of it. Two workers with real vLLM share a pool.

Their engines split long prompts (chunked prefill), which the defaults for CPUs do not: a seeded request with a split
prompt kills such an engine, every time.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from tests.dead_letters import next_dead_letter
from tests.running_platform import CHAT, RunningPlatform, metric_at

import inferbus
from inferbus import routes
from inferbus.contracts.presence import ENGINE_DOWN, READY
from inferbus.process.presence import PresenceTable
from inferbus.testing import eventually

SPLIT_PROMPTS = "--enable-chunked-prefill --max-num-batched-tokens 64"
WORKERS = ("llm-0", "llm-1")
QUESTION = [{"role": "user", "content": "Explain open."}]
LONG = {"model": CHAT, "messages": QUESTION, "max_tokens": 1500, "temperature": 0, "extra_body": {"ignore_eos": True}}
"""Seconds of work; always the same text."""
RESTART_S = 120.0
WORK = routes.infer(region="local", runtime="llm", pool=CHAT, lane=routes.INTERACTIVE, bucket=0, tenant="dev")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    env = {"INFERBUS_LLM_WORKER_ARGS": SPLIT_PROMPTS}
    with RunningPlatform(tmp_path_factory.mktemp("pair"), "--workers", "2", env=env) as platform:
        yield platform


@pytest.fixture
async def presence(pair: RunningPlatform) -> AsyncIterator[PresenceTable]:
    """Who is there and how; at least one worker is ready."""
    async with pair.bus("admin") as bus:
        table = PresenceTable(bus, bus.region)
        await table.start()
        await ready(table, 1)
        yield table
        await table.stop()


async def ready(presence: PresenceTable, workers: int) -> None:
    await eventually(lambda: len(presence.workers(CHAT)) >= workers, within_s=RESTART_S)


@pytest.fixture
async def client(pair: RunningPlatform) -> AsyncIterator[AsyncOpenAI]:
    async with pair.async_openai(timeout=RESTART_S) as client:
        yield client


async def whole(client: AsyncOpenAI, **options: Any) -> tuple[str, int]:
    """Ask for a whole answer; returns its text and how many tokens it has."""
    answer = await client.chat.completions.create(**(LONG | options))
    assert answer.usage is not None
    return answer.choices[0].message.content or "", answer.usage.completion_tokens


async def streamed(client: AsyncOpenAI, **options: Any) -> tuple[str, int]:
    stream = await client.chat.completions.create(
        **(LONG | options), stream=True, stream_options={"include_usage": True}
    )
    text, tokens = "", 0
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return text, tokens


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(url)


async def has_status(url: str, status: int) -> bool:
    return (await get(url)).status_code == status


def busy(pair: RunningPlatform, presence: PresenceTable) -> list[int]:
    """Say how many requests each worker has."""
    return [presence.alive()[name].in_flight if name in presence.alive() else 0 for name in WORKERS]


async def test_two_workers_share_a_pool(pair: RunningPlatform, presence: PresenceTable, client: AsyncOpenAI) -> None:
    await ready(presence, 2)
    asking = asyncio.gather(*(whole(client, max_tokens=400) for _ in range(48)))
    await eventually(lambda: min(busy(pair, presence)) > 0, within_s=20)
    answers = await asking
    assert [tokens for _, tokens in answers] == [400] * 48


async def test_a_killed_bus_comes_back_and_no_request_is_lost(
    pair: RunningPlatform, presence: PresenceTable, client: AsyncOpenAI
) -> None:
    await ready(presence, 2)
    alone = await streamed(client)
    running = [asyncio.create_task(ask(client)) for ask in (whole, streamed)]
    await eventually(lambda: sum(busy(pair, presence)) == len(running))
    pids = [pair.pid(name) for name in ("gateway-0", *WORKERS)]
    health = f"{pair.url}/health/ready"
    os.kill(pair.pid("nats"), signal.SIGKILL)
    await eventually(lambda: has_status(health, 503))
    held = [asyncio.create_task(ask(client, max_tokens=5)) for ask in (whole, streamed) for _ in range(5)]
    await eventually(lambda: has_status(health, 200), within_s=20)
    assert [tokens for _, tokens in await asyncio.gather(*held)] == [5] * len(held)
    assert await asyncio.gather(*running) == [alone, alone], "nothing was left out, nothing came twice"
    assert [pair.pid(name) for name in ("gateway-0", *WORKERS)] == pids, "nobody had to be restarted"


async def test_a_killed_engine_costs_nobody_anything(
    pair: RunningPlatform, presence: PresenceTable, client: AsyncOpenAI
) -> None:
    await ready(presence, 2)
    alone = await streamed(client)
    unstreamed = [asyncio.create_task(whole(client)) for _ in range(6)]
    streams = [asyncio.create_task(streamed(client)) for _ in range(6)]
    await eventually(lambda: sum(busy(pair, presence)) == 12 and min(busy(pair, presence)) > 0)
    health = f"http://127.0.0.1:{pair.port('llm-0')}/health/ready"
    pid = pair.pid("llm-0")
    os.kill(pair.engine_of("llm-0").pid, signal.SIGKILL)
    await eventually(lambda: presence.alive()["llm-0"].state == ENGINE_DOWN)
    refusal = await get(health)
    assert refusal.status_code == 503
    assert "engine_down" in refusal.text
    assert pair.process("llm-0").state == ENGINE_DOWN
    assert [tokens for _, tokens in await asyncio.gather(*unstreamed)] == [1500] * 6
    assert await asyncio.gather(*streams) == [alone] * 6, "the other engine went on where each client was"
    await eventually(lambda: presence.alive()["llm-0"].state == READY, within_s=RESTART_S)
    assert (await get(health)).status_code == 200
    assert pair.pid("llm-0") == pid, "only the engine was started anew"
    assert metric_at(pair.port("llm-0"), "inferbus_worker_engine_restarts") == 1


async def test_the_work_of_a_killed_worker_is_taken_over(
    pair: RunningPlatform, presence: PresenceTable, client: AsyncOpenAI
) -> None:
    await ready(presence, 2)
    alone = await streamed(client)
    unstreamed = [asyncio.create_task(whole(client, max_tokens=600)) for _ in range(8)]
    streams = [asyncio.create_task(streamed(client)) for _ in range(4)]
    await eventually(lambda: sum(busy(pair, presence)) == 12 and min(busy(pair, presence)) > 0)
    engine = pair.engine_of("llm-1")
    os.kill(pair.pid("llm-1"), signal.SIGKILL)
    began = asyncio.get_running_loop().time()
    assert [tokens for _, tokens in await asyncio.gather(*unstreamed)] == [600] * 8
    assert asyncio.get_running_loop().time() - began < 18, "taken back at once, not when the lease ran out"
    assert await asyncio.gather(*streams) == [alone] * 4
    assert not engine.alive()


async def test_a_killed_gateway_is_replaced_and_producers_notice_nothing(
    pair: RunningPlatform, presence: PresenceTable, client: AsyncOpenAI
) -> None:
    """An HTTP client loses its connection; a producer's message is durable, and the next gateway takes it up."""
    async with inferbus.Client(pair.bus_url, nkey_seed_file=pair.seed_file("dev")) as producer:
        asked = asyncio.create_task(producer.chat(CHAT, QUESTION, max_tokens=1900, ignore_eos=True, temperature=0))
        over_http = asyncio.create_task(whole(client))
        await eventually(lambda: sum(busy(pair, presence)) == 2)
        os.kill(pair.pid("gateway-0"), signal.SIGKILL)
        with pytest.raises(openai.APIConnectionError):
            await over_http
        answer = await asyncio.wait_for(asked, 90)
    assert answer["usage"]["completion_tokens"] == 1900
    await eventually(lambda: sum(busy(pair, presence)) == 0, within_s=10)
    assert await whole(client, max_tokens=3)


async def test_a_request_that_kills_engines_ends_alone_and_its_neighbours_do_not(
    pair: RunningPlatform, presence: PresenceTable, client: AsyncOpenAI
) -> None:
    await ready(presence, 2)
    async with pair.bus("operator") as operator:
        neighbours = [asyncio.create_task(whole(client, max_tokens=600)) for _ in range(6)]
        await eventually(lambda: sum(busy(pair, presence)) == 6)
        as_ever = client.with_options(max_retries=2)  # it must not be asked again, and kill again
        with pytest.raises(openai.InternalServerError) as caught:
            await as_ever.chat.completions.create(
                model=CHAT, messages=[{"role": "user", "content": "word " * 300}], seed=1, max_tokens=5
            )
        letter = await next_dead_letter(operator, WORK)
    assert caught.value.status_code == 500
    assert caught.value.code == "poison"
    assert letter.code == "poison"
    assert b'"seed":1' in letter.data
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert [tokens for _, tokens in await asyncio.gather(*neighbours)] == [600] * 6
    await eventually(lambda: len(presence.workers(CHAT)) == 2, within_s=RESTART_S)
    assert await whole(client, max_tokens=3)


async def test_a_killed_supervisor_leaves_nothing_running(pair: RunningPlatform, presence: PresenceTable) -> None:
    await ready(presence, 2)
    processes = pair.processes()
    assert sum("EngineCore" in process.command for process in processes) == 2
    pair.signal(signal.SIGKILL)
    pair.wait()
    await eventually(lambda: not [process for process in processes if process.alive()], within_s=10)
