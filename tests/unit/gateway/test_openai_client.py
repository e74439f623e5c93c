"""The ordinary openai client against a real server on a real socket; only what is behind the ports is faked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from openai import AsyncOpenAI
from tests.unit.gateway.fakes import KEY, PATIENCE_S, Door, FakeEngine

from inferbus.errors import (
    DeadlineWhileRunning,
    DependencyDown,
    EngineDead,
    Forbidden,
    InferbusError,
    Overloaded,
    TenantOverloaded,
    Unsupported,
)
from inferbus_gateway.server import HttpServer
from inferbus_gateway.settings import GatewaySettings

CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"inferbus-tiny",'
    b'"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"inferbus-tiny","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)
EMBEDDINGS = (
    b'{"object":"list","model":"org/mini lm","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25]}],'
    b'"usage":{"prompt_tokens":3,"total_tokens":3}}'
)
USER = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def serving(door: Door) -> AsyncIterator[AsyncOpenAI]:
    server = HttpServer(door.app, door.settings)
    await server.start()
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S)
    try:
        yield client
    finally:
        await client.close()
        await asyncio.wait_for(server.stop(), PATIENCE_S)


@pytest.fixture
async def client(door: Door) -> AsyncIterator[AsyncOpenAI]:
    async with serving(door) as client:
        yield client


def says_hello(engine: FakeEngine) -> None:
    engine.begin()
    for text in (b"hel", b"lo"):
        engine.chunk(CHUNK % text)
    engine.chunk(b"data: [DONE]\n\n")
    engine.finish()


def answers(data: bytes, status: int = 200) -> object:
    def script(engine: FakeEngine) -> None:
        engine.begin()
        engine.finish(status, data)

    return script


async def test_streaming(door: Door, client: AsyncOpenAI) -> None:
    door.admitter.script = says_hello
    stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["hel", "lo"]


async def test_not_streaming_and_the_request_id(door: Door, client: AsyncOpenAI) -> None:
    door.admitter.script = answers(ANSWER)
    answer = await client.chat.completions.create(
        model="tiny", messages=USER, extra_headers={"X-Request-Id": "mine-1"}, tools=[], seed=1, stop=["x"], n=1
    )
    assert answer.choices[0].message.content == "hello"
    assert answer._request_id == "mine-1"


async def test_a_chunk_arrives_before_the_next_exists(door: Door, client: AsyncOpenAI) -> None:
    asking = asyncio.ensure_future(client.chat.completions.create(model="tiny", messages=USER, stream=True))
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(CHUNK % b"a")
    stream = aiter(await asking)
    assert (await anext(stream)).choices[0].delta.content == "a"
    engine.chunk(CHUNK % b"b")
    assert (await anext(stream)).choices[0].delta.content == "b"
    engine.finish()


async def test_embeddings_and_models(door: Door, client: AsyncOpenAI) -> None:
    door.admitter.script = answers(EMBEDDINGS)
    result = await client.embeddings.create(model="org/mini lm", input=["a"], encoding_format="float")
    assert result.data[0].embedding == [0.5, 0.25]
    assert [model.id async for model in client.models.list()] == ["inferbus-tiny", "org/mini lm"]
    assert (await client.models.retrieve("org/mini lm")).id == "org/mini lm"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (Forbidden("no"), openai.PermissionDeniedError),
        (Unsupported("no"), openai.UnprocessableEntityError),
        (TenantOverloaded("no", retry_after_s=3), openai.RateLimitError),
        (Overloaded("no"), openai.InternalServerError),
        (DependencyDown("no"), openai.InternalServerError),
    ],
)
async def test_refusals_raise_the_clients_own_classes(
    door: Door, client: AsyncOpenAI, error: InferbusError, raised: type[openai.APIStatusError], stream: bool
) -> None:
    door.admitter.refuse = error
    with pytest.raises(raised) as caught:
        await client.chat.completions.create(model="tiny", messages=USER, stream=stream)
    assert caught.value.code == error.code
    assert caught.value.status_code == error.row.http_status
    assert (caught.value.response.headers.get("retry-after") is not None) == error.row.retryable


async def test_mistakes_raise_the_clients_own_classes(door: Door, client: AsyncOpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="nobody"):
        await create(model="nobody", messages=USER)
    with pytest.raises(openai.BadRequestError) as caught:
        await create(model="tiny", messages=USER, max_tokens="many")  # type: ignore[call-overload]  # the mistake
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="ib-1-wrong").models.list()
    door.admitter.script = answers(
        b'{"error":{"message":"9 tokens, at most 8","type":"BadRequestError","code":400}}', 400
    )
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError, match="9 tokens, at most 8"):
            await create(model="tiny", messages=USER, stream=stream)


async def test_a_body_over_the_limit_is_told_even_while_it_is_uploaded() -> None:
    door = Door(GatewaySettings(port=0, max_body_bytes=1000))
    async with serving(door) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 20_000_000}])
    assert caught.value.status_code == 413
    assert "the limit is 1000 bytes" in caught.value.message
    assert door.admitter.admitted.empty()


@pytest.mark.parametrize("error", [EngineDead("lost in mid-stream"), DeadlineWhileRunning("too late")])
async def test_a_late_error_raises_in_the_middle_of_the_stream(
    door: Door, client: AsyncOpenAI, error: InferbusError
) -> None:
    def script(engine: FakeEngine) -> None:
        engine.begin()
        engine.chunk(CHUNK % b"a")
        engine.fail(error)

    door.admitter.script = script
    stream = aiter(await client.chat.completions.create(model="tiny", messages=USER, stream=True))
    assert (await anext(stream)).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError, match=error.message) as caught:
        await anext(stream)
    assert caught.value.code == error.code


async def test_comments_while_queueing_are_nothing_to_the_client() -> None:
    door = Door(GatewaySettings(port=0, queue_comment_after_s=0.01, comment_every_s=0.01))
    async with serving(door) as client:
        stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
        engine = await door.admitter.next()
        says_hello(engine)
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["hel", "lo"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["queued", "prefill", "decode"])
async def test_a_client_that_leaves_cancels(door: Door, client: AsyncOpenAI, phase: str, stream: bool) -> None:
    async def ask() -> None:
        answer = await client.chat.completions.create(model="tiny", messages=USER, stream=stream)
        if stream:
            async for _ in answer:
                pass

    asking = asyncio.ensure_future(ask())
    engine = await door.admitter.next()
    if phase != "queued":
        engine.begin()
    if phase == "decode" and stream:
        engine.chunk(CHUNK % b"a")
    asking.cancel()
    await asyncio.wait_for(engine.closed.wait(), PATIENCE_S)
    assert engine.cancelled
