"""Requests that wait, run out of time, are too many, or are given up by their client."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.running_platform import CHAT, RunningPlatform, metric_at

from inferbus.contracts.models import Limits, ModelEntry
from inferbus.models import apply_model, remove_model
from inferbus.testing import eventually

QUESTION = [{"role": "user", "content": "Explain open."}]
ENDLESS = {"model": CHAT, "messages": QUESTION, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
"""Several seconds of work for an engine."""
SLOTS = 32
_names = itertools.count()


@pytest.fixture
async def idle_model(platform: RunningPlatform) -> AsyncIterator[str]:
    """A model that is known and that nobody serves."""
    async with _applied(platform, Limits()) as name:
        yield name


@asynccontextmanager
async def _applied(platform: RunningPlatform, limits: Limits) -> AsyncIterator[str]:
    name = f"unserved-{next(_names)}"
    async with platform.bus("admin") as bus:
        await apply_model(bus, ModelEntry(name=name, pool=name, limits=limits))
        yield name
        await remove_model(bus, name)


async def _known(client: AsyncOpenAI, model: str) -> None:
    """Wait until the gateway knows a model and the bus takes work for it."""

    async def accepted() -> bool:
        try:
            await client.chat.completions.create(
                model=model, messages=QUESTION, extra_headers={"X-Inferbus-Deadline-Ms": "50"}
            )
        except openai.NotFoundError:
            return False
        except openai.InternalServerError as error:
            return error.code == "deadline_queued"
        return False

    await eventually(accepted, within_s=20)


# --- nobody serves ------------------------------------------------------------------------------------------------


async def test_no_worker_before_the_deadline_is_a_503_with_retry_after(
    async_client: AsyncOpenAI, idle_model: str
) -> None:
    await _known(async_client, idle_model)
    began = asyncio.get_running_loop().time()
    with pytest.raises(openai.InternalServerError) as caught:
        await async_client.chat.completions.create(
            model=idle_model, messages=QUESTION, extra_headers={"X-Inferbus-Deadline-Ms": "700"}
        )
    assert 0.6 < asyncio.get_running_loop().time() - began < 5
    assert caught.value.status_code == 503
    assert caught.value.code == "deadline_queued"
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_a_stream_that_waits_gets_comments_and_then_the_error_as_an_event(
    platform: RunningPlatform, async_client: AsyncOpenAI, idle_model: str
) -> None:
    await _known(async_client, idle_model)
    body = {"model": idle_model, "messages": QUESTION, "stream": True}
    headers = {"Authorization": f"Bearer {platform.key}", "X-Inferbus-Deadline-Ms": "2500"}
    began = asyncio.get_running_loop().time()
    async with (
        httpx.AsyncClient(timeout=30) as http,
        http.stream("POST", f"{platform.url}/v1/chat/completions", headers=headers, json=body) as answer,
    ):
        assert answer.status_code == 200
        assert 0.8 < asyncio.get_running_loop().time() - began < 2.4, "the head came after a second of waiting"
        text = (await answer.aread()).decode()
    events = [event for event in text.split("\n\n") if event]
    assert events[0].startswith(": ")
    assert events[-1].startswith("event: error\ndata: ")
    assert json.loads(events[-1].split("data: ", 1)[1])["error"]["code"] == "deadline_queued"


async def test_the_client_raises_api_error_for_an_error_event(async_client: AsyncOpenAI, idle_model: str) -> None:
    await _known(async_client, idle_model)
    stream = await async_client.chat.completions.create(
        model=idle_model, messages=QUESTION, stream=True, extra_headers={"X-Inferbus-Deadline-Ms": "1500"}
    )
    with pytest.raises(openai.APIError, match="deadline"):
        await anext(aiter(stream))


async def test_a_client_that_leaves_the_queue_is_forgotten(
    platform: RunningPlatform, async_client: AsyncOpenAI, idle_model: str
) -> None:
    await _known(async_client, idle_model)
    port = platform.port("gateway-0")
    async with _asking(async_client, 1, model=idle_model), _asking(async_client, 1, model=idle_model, stream=True):
        await eventually(lambda: _open(port, idle_model) == 2)
    await eventually(lambda: _open(port, idle_model) == 0)


def _open(port: int, pool: str) -> float:
    return metric_at(port, "inferbus_gateway_pool_open_requests", pool=pool)


# --- too many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "kind", "status", "code"),
    [
        (Limits(max_pending_per_tenant=2), openai.RateLimitError, 429, "tenant_overloaded"),
        (Limits(max_pending=2), openai.InternalServerError, 503, "overloaded"),
    ],
)
async def test_more_than_the_bound_is_refused_with_retry_after(
    platform: RunningPlatform,
    async_client: AsyncOpenAI,
    limits: Limits,
    kind: type[openai.APIStatusError],
    status: int,
    code: str,
) -> None:
    async with _applied(platform, limits) as model:
        await _known(async_client, model)
        port = platform.port("gateway-0")
        async with _asking(async_client, 2, model=model):
            await eventually(lambda: _open(port, model) == 2)
            for stream in (False, True):
                with pytest.raises(kind) as caught:
                    await async_client.chat.completions.create(model=model, messages=QUESTION, stream=stream)
                assert caught.value.status_code == status
                assert caught.value.code == code
                assert int(caught.value.response.headers["retry-after"]) >= 1
        await eventually(lambda: _open(port, model) == 0)
        with pytest.raises(openai.InternalServerError) as caught:  # the places are free again
            await async_client.chat.completions.create(
                model=model, messages=QUESTION, extra_headers={"X-Inferbus-Deadline-Ms": "50"}
            )
        assert caught.value.code == "deadline_queued"


# --- out of time --------------------------------------------------------------------------------------------------


def test_a_deadline_while_running_is_a_504_and_not_asked_again(platform: RunningPlatform, client: OpenAI) -> None:
    began = time.monotonic()
    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(**ENDLESS, extra_headers={"X-Inferbus-Deadline-Ms": "3000"})
    assert time.monotonic() - began < 5.9
    assert caught.value.status_code == 504
    assert caught.value.code == "deadline_running"
    assert "retry-after" not in caught.value.response.headers


async def test_a_deadline_in_mid_stream_ends_it_with_an_error(
    platform: RunningPlatform, async_client: AsyncOpenAI
) -> None:
    stream = await async_client.chat.completions.create(
        **ENDLESS, stream=True, extra_headers={"X-Inferbus-Deadline-Ms": "1000"}
    )
    assert (await anext(aiter(stream))).choices
    with pytest.raises(openai.APIError, match="deadline"):
        await _to_its_end(stream)
    await _idle(platform)


async def _to_its_end(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


# --- the client goes ----------------------------------------------------------------------------------------------


class Load:
    """What the chat worker has: in the engine, and waiting in its queue."""

    def __init__(self, platform: RunningPlatform) -> None:
        self._port = platform.port("llm-0")

    def _read(self, name: str) -> float:
        return metric_at(self._port, f"inferbus_worker_{name}")

    @property
    def running(self) -> float:
        return self._read("running")

    @property
    def waiting(self) -> float:
        return self._read("waiting")

    @property
    def queued(self) -> float:
        return self._read("queue_pending")

    @property
    def tokens(self) -> float:
        return self._read("tokens_total")


async def _idle(platform: RunningPlatform) -> None:
    """Wait until the engine has nothing to do and nothing is queued for it."""
    load = Load(platform)
    await eventually(lambda: load.running == load.waiting == load.queued == 0, within_s=10)
    port = platform.port("gateway-0")
    await eventually(lambda: _open(port, CHAT) == 0)


@asynccontextmanager
async def _asking(client: AsyncOpenAI, count: int, **options: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Ask in the background; leaving the block hangs up. Streams are opened, then not read."""
    tasks = [asyncio.create_task(client.chat.completions.create(**(ENDLESS | options))) for _ in range(count)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, openai.AsyncStream):
                await ended.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["direct", "asgi"])
async def test_hanging_up_while_it_decodes_frees_the_engine(
    platform: RunningPlatform, async_client: AsyncOpenAI, stream: bool, path: str
) -> None:
    """Logprobs and several choices go through vLLM's own application, plain streams do not."""
    load = Load(platform)
    more = {} if path == "direct" else {"logprobs": True, "n": 2}
    async with _asking(async_client, 3, stream=stream, **more):
        await eventually(lambda: load.running >= 3, within_s=10)
    await eventually(lambda: load.running == load.waiting == 0, within_s=5)
    await _idle(platform)


async def test_hanging_up_after_the_first_token_frees_the_engine(
    platform: RunningPlatform, async_client: AsyncOpenAI
) -> None:
    load = Load(platform)
    stream = await async_client.chat.completions.create(**ENDLESS, stream=True)
    async for _ in stream:
        break
    assert load.running == 1
    await stream.close()
    await eventually(lambda: load.running == 0, within_s=5)


async def test_hanging_up_before_the_first_token_frees_the_engine(
    platform: RunningPlatform, async_client: AsyncOpenAI
) -> None:
    """Long prompts, hung up on at once: some are still on their way, some in prefill."""
    prompt = [{"role": "user", "content": "word " * 1700}]
    for delay_s in (0.0, 0.005, 0.02, 0.05):
        tasks = [
            asyncio.create_task(
                async_client.chat.completions.create(
                    model=CHAT, messages=prompt, max_tokens=300, stream=stream, extra_body={"ignore_eos": True}
                )
            )
            for stream in (False, True, False, True)
        ]
        await asyncio.wait(tasks, timeout=delay_s)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, openai.AsyncStream):
                await ended.close()
    await _idle(platform)


async def test_what_waits_for_a_slot_is_cancelled_without_ever_running(
    platform: RunningPlatform, async_client: AsyncOpenAI
) -> None:
    load = Load(platform)
    async with _asking(async_client, SLOTS, stream=True):
        await eventually(lambda: load.running == SLOTS, within_s=20)
        async with _asking(async_client, 4), _asking(async_client, 4, stream=True):
            port = platform.port("gateway-0")
            await eventually(lambda: load.queued + load.waiting == 8, within_s=10)
            assert load.waiting <= SLOTS // 4, "the queue holds them, not the engine"
            assert metric_at(port, "inferbus_gateway_pool_oldest_pending_seconds", pool=CHAT) > 0
            assert metric_at(port, "inferbus_gateway_pool_queued_tokens", pool=CHAT) > 0
        await eventually(lambda: _open(port, CHAT) == SLOTS, within_s=5)
    await _idle(platform)


async def test_more_requests_than_slots_are_all_answered(platform: RunningPlatform, async_client: AsyncOpenAI) -> None:
    answers = await asyncio.gather(
        *(
            async_client.chat.completions.create(
                model=CHAT, messages=QUESTION, max_tokens=20, extra_body={"ignore_eos": True}
            )
            for _ in range(3 * SLOTS)
        )
    )
    assert [answer.usage.completion_tokens for answer in answers] == [20] * (3 * SLOTS)
    assert len({answer.id for answer in answers}) == 3 * SLOTS
    await _idle(platform)
