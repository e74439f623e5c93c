"""Producers without HTTP: the SDK, and a raw NATS client that knows nothing of us but the subjects and headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from openai import OpenAI
from tests.dead_letters import last_dead_letter, next_dead_letter
from tests.running_platform import CHAT, EMBED, RunningPlatform, metric_at

import inferbus
from inferbus import routes
from inferbus.bus import Bus
from inferbus.errors import (
    Cancelled,
    DeadlineWhileQueued,
    DeadlineWhileRunning,
    InferbusError,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unsupported,
)
from inferbus.testing import eventually

QUESTION = [{"role": "user", "content": "What does the threading module do?"}]
SUBJECT = routes.request("dev", CHAT, routes.INTERACTIVE)
WORK = routes.infer(region="local", runtime="llm", pool=CHAT, lane=routes.INTERACTIVE, bucket=0, tenant="dev")
PATIENCE_S = 30.0


@pytest.fixture
async def producer(platform: RunningPlatform) -> AsyncIterator[inferbus.Client]:
    async with inferbus.Client(platform.bus_url, nkey_seed_file=platform.seed_file("dev")) as client:
        yield client


# --- the SDK ------------------------------------------------------------------------------------------------------


async def test_the_sdk_says_the_same_as_http(producer: inferbus.Client, client: OpenAI) -> None:
    options = {"max_tokens": 30, "temperature": 0}
    over_http = client.chat.completions.create(model=CHAT, messages=QUESTION, **options).choices[0].message.content
    answer = await producer.chat(CHAT, QUESTION, **options)
    assert answer["choices"][0]["message"]["content"] == over_http
    chunks = [chunk async for chunk in producer.stream(CHAT, QUESTION, **options)]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == over_http


async def test_the_sdk_embeds(producer: inferbus.Client, client: OpenAI) -> None:
    vectors = await producer.embed(EMBED, ["a cat", "tax law"])
    assert [len(vector) for vector in vectors] == [384, 384]
    (only,) = await producer.embed(EMBED, "a cat")
    assert only == pytest.approx(vectors[0], abs=1e-3)
    over_http = client.embeddings.create(model=EMBED, input="a cat").data[0].embedding
    assert only == pytest.approx(over_http, abs=1e-3)


async def test_the_sdk_serves_many_requests_at_once(producer: inferbus.Client) -> None:
    answers = await asyncio.gather(
        *(producer.chat(CHAT, QUESTION, max_tokens=5, ignore_eos=True, request_id=f"many-{n}") for n in range(50))
    )
    assert [f"many-{n}" in answer["id"] for n, answer in enumerate(answers)] == [True] * 50


async def test_the_batch_lane_is_served_too(producer: inferbus.Client) -> None:
    assert (await producer.chat(CHAT, QUESTION, max_tokens=3, lane=routes.BATCH))["choices"]


async def test_a_body_over_one_megabyte_gets_through_the_bus_door(producer: inferbus.Client) -> None:
    assert (await producer.chat(CHAT, QUESTION, max_tokens=3, metadata={"note": "n" * 3_000_000}))["choices"]
    with pytest.raises(TooLarge, match="9000"):
        await producer.chat(CHAT, QUESTION, metadata={"note": "n" * 9_000_000})


@pytest.mark.parametrize(
    ("model", "options", "kind", "words"),
    [
        ("no-such-model", {}, NotFound, "no-such-model"),
        (EMBED, {}, Unsupported, "chat"),
        (CHAT, {"max_tokens": "many"}, InvalidRequest, "max_tokens"),
        (CHAT, {"n": 1000}, InvalidRequest, "n must be"),
        (CHAT, {"max_tokens": 5000}, InvalidRequest, "2048"),
        (CHAT, {"max_tokens": 1900, "ignore_eos": True, "timeout_s": 0.8}, DeadlineWhileRunning, "deadline"),
        (CHAT, {"timeout_s": 0.001}, DeadlineWhileQueued, "deadline"),
    ],
)
async def test_the_sdk_raises_what_went_wrong(
    producer: inferbus.Client, model: str, options: dict[str, Any], kind: type[InferbusError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await producer.chat(model, QUESTION, **options)
    with pytest.raises(kind, match=words):
        [chunk async for chunk in producer.stream(model, QUESTION, **options)]


async def test_the_sdk_cancels_by_id(producer: inferbus.Client, platform: RunningPlatform) -> None:
    port = platform.port("llm-0")
    asked = asyncio.create_task(
        producer.chat(CHAT, QUESTION, max_tokens=1900, ignore_eos=True, request_id="to-be-cancelled")
    )
    await eventually(lambda: metric_at(port, "inferbus_worker_running") == 1)
    await producer.cancel("to-be-cancelled")
    with pytest.raises(Cancelled):
        await asyncio.wait_for(asked, PATIENCE_S)
    await eventually(lambda: metric_at(port, "inferbus_worker_running") == 0)


async def test_leaving_the_loop_cancels(producer: inferbus.Client, platform: RunningPlatform) -> None:
    port = platform.port("llm-0")
    async with aclosing(producer.stream(CHAT, QUESTION, max_tokens=1900, ignore_eos=True)) as chunks:
        async for _ in chunks:
            break
        assert metric_at(port, "inferbus_worker_running") == 1
    await eventually(lambda: metric_at(port, "inferbus_worker_running") == 0)


# --- a raw client -------------------------------------------------------------------------------------------------


class RawProducer:
    """nats-py and nothing of ours: what somebody writes who has only read the documentation."""

    def __init__(self, nc: NatsClient) -> None:
        self.nc = nc

    async def ask(
        self, body: bytes, *, subject: str = "request.dev.inferbus-tiny.interactive", **headers: str
    ) -> list[Msg]:
        reply = f"reply.dev.{self.nc.new_inbox().rsplit('.', 1)[1]}"
        answers = await self.nc.subscribe(reply)
        headers = {"Ib-Reply": reply} | {name.replace("_", "-"): value for name, value in headers.items()}
        await self.nc.jetstream().publish(subject, body, headers=headers)
        messages: list[Msg] = []
        while not messages or (messages[-1].headers or {}).get("Ib-End") != "1":
            messages.append(await answers.next_msg(timeout=PATIENCE_S))
        await answers.unsubscribe()
        return messages


@asynccontextmanager
async def raw_producer(platform: RunningPlatform) -> AsyncIterator[RawProducer]:
    nc = await nats.connect(platform.bus_url, nkeys_seed=platform.seed_file("dev"), inbox_prefix=b"_INBOX_producer.dev")
    try:
        yield RawProducer(nc)
    finally:
        await nc.close()


async def test_a_raw_client_asks_and_reads_json(platform: RunningPlatform) -> None:
    body = {"model": CHAT, "messages": QUESTION, "max_tokens": 5, "ignore_eos": True}
    async with raw_producer(platform) as raw:
        (whole,) = await raw.ask(json.dumps(body).encode(), Ib_Request="raw-1")
        parts = await raw.ask(json.dumps(body | {"stream": True}).encode())
    assert whole.headers is not None
    assert (whole.headers["Ib-Status"], whole.headers["Ib-Seq"], whole.headers["Ib-End"]) == ("200", "0", "1")
    assert json.loads(whole.data)["usage"]["completion_tokens"] == 5
    headers = [part.headers or {} for part in parts]
    assert [part["Ib-Seq"] for part in headers] == [str(n) for n in range(len(parts))]
    assert {part["Ib-Status"] for part in headers} == {"200"}
    assert ["Ib-End" in part for part in headers] == [False] * (len(parts) - 1) + [True]
    chunks = [json.loads(part.data) for part in parts if part.data]
    assert len(chunks) >= 5
    assert chunks[0]["object"] == "chat.completion.chunk"


async def test_a_raw_client_reads_errors_the_same_way(platform: RunningPlatform) -> None:
    body = {"model": "no-such-model", "messages": QUESTION}
    async with raw_producer(platform) as raw:
        (answer,) = await raw.ask(json.dumps(body).encode(), subject="request.dev.no-such-model.interactive")
    assert (answer.headers or {})["Ib-Status"] == "404"
    assert json.loads(answer.data)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("subject", "body", "headers", "words"),
    [
        (SUBJECT, b"\xff\xfe not json", {}, "body"),
        (SUBJECT, b"[]", {}, "body"),
        (SUBJECT, b"{}", {}, "model"),
        (SUBJECT, b'{"model": "another", "messages": []}', {}, "another"),
        (SUBJECT, b'{"model": "inferbus-tiny", "messages": []}', {"Ib-Path": "/v1/nothing"}, "/v1/nothing"),
        (SUBJECT, b'{"model": "inferbus-tiny", "messages": []}', {"Ib-Deadline-Ms": "soon"}, "Ib-Deadline-Ms"),
    ],
)
async def test_an_undecodable_request_is_answered_and_a_dead_letter(
    platform: RunningPlatform, subject: str, body: bytes, headers: dict[str, str], words: str
) -> None:
    async with raw_producer(platform) as raw, platform.bus("operator") as operator:
        before = await _newest(operator, subject)
        (answer,) = await raw.ask(body, subject=subject, **headers)
        letter = await next_dead_letter(operator, subject, after=before)
    assert int((answer.headers or {})["Ib-Status"]) in range(400, 500)
    assert words in json.loads(answer.data)["error"]["message"]
    assert letter.data == body
    assert words in letter.reason


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "reply.other.inbox",
        "infer.local",
        "reply.dev",
        "reply.dev.",
        "reply.dev.*",
        "reply.dev.>",
        "reply.dev..x",
        "$JS.API.INFO",
    ],
)
async def test_an_address_that_is_not_the_tenants_gets_nothing(platform: RunningPlatform, reply: str) -> None:
    body = json.dumps({"model": CHAT, "messages": QUESTION, "max_tokens": 2}).encode()
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    async with raw_producer(platform) as raw, platform.bus("operator") as operator:
        await operator.subscribe("reply.>", hear)
        before = await _newest(operator, SUBJECT)
        await raw.nc.jetstream().publish(SUBJECT, body, headers={"Ib-Reply": reply} if reply else None)
        letter = await next_dead_letter(operator, SUBJECT, after=before)
        mine = await raw.ask(body)  # what was refused would have come before this
    assert letter.code in {"forbidden", "invalid_request"}
    assert "Ib-Reply" in letter.reason
    assert [message.subject for message in heard] == [mine[0].subject]


async def test_a_producer_cannot_speak_for_another_tenant(platform: RunningPlatform) -> None:
    body = json.dumps({"model": CHAT, "messages": QUESTION}).encode()
    async with raw_producer(platform) as raw:
        for subject in ("request.other.inferbus-tiny.interactive", WORK, "reply.dev.x", "cancel.other.x"):
            with pytest.raises(nats.errors.Error):
                await raw.nc.request(subject, body, timeout=0.3)


# --- messages nobody can read ---------------------------------------------------------------------------------------


async def test_undecodable_work_is_a_dead_letter_and_the_worker_goes_on(
    platform: RunningPlatform, producer: inferbus.Client
) -> None:
    good = {
        "Ib-Version": "1",
        "Ib-Request": "r",
        "Ib-Tag": "1",
        "Ib-Asker": "nobody",
        "Ib-Path": "/",
        "Ib-Deadline-Ms": "9000",
    }
    bad: list[dict[str, str]] = [
        {},
        {"Ib-Version": "x"},
        good | {"Ib-Tag": "one"},
        good | {"Ib-Deadline-Ms": "never"},
        good | {"Ib-Ticket": "not;a;ticket"},
        {name: value for name, value in good.items() if name != "Ib-Asker"},
    ]
    async with platform.bus("gateway") as gateway, platform.bus("operator") as operator:
        for headers in bad:
            before = await _newest(operator, WORK)
            await gateway.accept(WORK, b"\x00 not json", headers)
            letter = await next_dead_letter(operator, WORK, after=before)
            assert letter.data == b"\x00 not json"
            assert letter.code == "invalid_request"
            assert letter.reason
    assert (await producer.chat(CHAT, QUESTION, max_tokens=2))["choices"]
    assert platform.process("llm-0").restarts == 0


async def _newest(operator: Bus, subject: str) -> int:
    letter = await last_dead_letter(operator, subject)
    return letter.sequence if letter else 0
