"""What clients see: the openai client, the SDK, a raw NATS client, two workers behind one name."""

from __future__ import annotations

import asyncio
import json
import time

import nats
from openai import AsyncOpenAI
from tests.demos.show import Show
from tests.running_platform import CHAT, EMBED, RunningPlatform

import inferbus
from inferbus.process.presence import PresenceTable

QUESTION = [{"role": "user", "content": "What does the threading module do?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


async def streaming_chat(show: Show, client: AsyncOpenAI) -> None:
    show.section("A chat streams", "openai.chat.completions.create(stream=True): the ordinary client, unchanged")
    began = time.monotonic()
    stream = await client.chat.completions.create(
        model=CHAT, messages=QUESTION, stream=True, max_tokens=60, stream_options={"include_usage": True}
    )
    chunks, first_s, tokens = 0, 0.0, 0
    async for chunk in stream:
        for choice in chunk.choices:
            chunks += 1
            first_s = first_s or time.monotonic() - began
            show.piece(choice.delta.content or "")
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    show.say(
        f"\n\n{tokens} tokens, the first after {first_s * 1000:.0f} ms, all after {time.monotonic() - began:.2f} s"
    )
    show.claim("the answer came in pieces", chunks > 3)
    show.claim("it ended with usage, as asked", tokens > 0)


async def tool_call(show: Show, client: AsyncOpenAI) -> None:
    show.section("A tool call", "tools=[get_weather], tool_choice='auto': the model decides to call it")
    answer = await client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "What is the weather in Tokyo?"}],
        tools=[WEATHER],
        tool_choice="auto",
        temperature=0,
        max_tokens=100,
    )
    (choice,) = answer.choices
    calls = [call.function for call in choice.message.tool_calls or [] if call.type == "function"]
    for call in calls:
        show.say(f"{call.name}({call.arguments})")
    show.claim("finish_reason is tool_calls", choice.finish_reason == "tool_calls")
    show.claim(
        "get_weather is called, with a city",
        [call.name for call in calls] == ["get_weather"] and _has_city(calls[0].arguments),
    )


def _has_city(arguments: str) -> bool:
    return isinstance(json.loads(arguments).get("city"), str)


async def json_answer(show: Show, client: AsyncOpenAI) -> None:
    show.section(
        "An answer by JSON schema", "response_format={'type': 'json_schema', ...}: the engine can say nothing else"
    )
    answer = await client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Reply in JSON: a person."}],
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}},
        temperature=0,
        max_tokens=200,
    )
    text = answer.choices[0].message.content or ""
    show.say(text)
    person = json.loads(text)
    show.claim("it is JSON with a name and an age, and nothing else", person.keys() == {"name", "age"})
    show.claim("the types are the schema's", isinstance(person["name"], str) and person["age"] in range(151))


async def embedding(show: Show, client: AsyncOpenAI) -> None:
    texts = ["a cat on a sofa", "a kitten on a couch", "the tax law of 1920"]
    show.section("Embeddings", f"openai.embeddings.create(model='{EMBED}'), from a second worker")
    answer = await client.embeddings.create(model=EMBED, input=texts)
    first, *others = (item.embedding for item in answer.data)
    likeness = [sum(a * b for a, b in zip(first, other, strict=True)) for other in others]
    show.table(
        ("text", "likeness to the first"),
        [(text, f"{value:.2f}") for text, value in zip(texts[1:], likeness, strict=True)],
    )
    show.claim("384 numbers each", len(first) == 384)
    show.claim("the kitten is closer to the cat than the tax law is", likeness[0] > 0.5 > likeness[1])


async def producer_by_sdk(show: Show, platform: RunningPlatform) -> None:
    show.section(
        "A producer without HTTP", "async with inferbus.Client(...): request.dev.<model>.interactive on the bus"
    )
    async with inferbus.Client(platform.bus_url, nkey_seed_file=platform.seed_file("dev")) as client:
        answer = await client.chat(CHAT, QUESTION, max_tokens=30, temperature=0)
        whole = answer["choices"][0]["message"]["content"]
        pieces: list[str] = []
        async for chunk in client.stream(CHAT, QUESTION, max_tokens=30, temperature=0):
            pieces.append(chunk["choices"][0]["delta"].get("content") or "")
            show.piece(pieces[-1])
        show.say("")
        (vector,) = await client.embed(EMBED, "a cat on a sofa")
    show.claim("chat() and stream() say the same", "".join(pieces) == whole)
    show.claim("embed() gives a vector", len(vector) == 384)


async def raw_nats_client(show: Show, platform: RunningPlatform) -> None:
    show.section(
        "A NATS client that knows nothing of us", "nats-py alone: publish to a subject, read JSON from another"
    )
    nc = await nats.connect(platform.bus_url, nkeys_seed=platform.seed_file("dev"), inbox_prefix=b"_INBOX_producer.dev")
    try:
        answers = await nc.subscribe("reply.dev.mine")
        body = {"model": CHAT, "messages": QUESTION, "max_tokens": 4, "stream": True, "ignore_eos": True}
        subject = f"request.dev.{CHAT}.interactive"
        accepted = await nc.jetstream().publish(
            subject, json.dumps(body).encode(), headers={"Ib-Reply": "reply.dev.mine"}
        )
        show.say(f"PUB {subject}   stored as message {accepted.seq} of {accepted.stream}")
        rows, ended = [], False
        while not ended:
            message = await answers.next_msg(timeout=30)
            headers = message.headers or {}
            ended = headers.get("Ib-End") == "1"
            rows.append((headers["Ib-Seq"], headers["Ib-Status"], headers.get("Ib-End", ""), _shortened(message.data)))
    finally:
        await nc.close()
    show.table(("Ib-Seq", "Ib-Status", "Ib-End", "data"), rows)
    show.claim("the parts are numbered without a gap", [row[0] for row in rows] == [str(n) for n in range(len(rows))])
    show.claim(
        "every part says 200, the last one says it is the last",
        {row[1] for row in rows} == {"200"} and rows[-1][2] == "1",
    )


def _shortened(data: bytes) -> str:
    if not data:
        return ""
    choices = json.loads(data).get("choices") or [{}]
    return json.dumps(choices[0].get("delta", choices[0]))[:80]


async def two_workers(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section("Two workers share a pool", "48 chats at once; each worker pulls exactly the slots it has free")
    async with platform.bus("admin") as bus:
        presence = PresenceTable(bus, bus.region)
        await presence.start()
        most = dict.fromkeys(("llm-0", "llm-1"), 0)
        asking = asyncio.gather(
            *(
                client.chat.completions.create(
                    model=CHAT, messages=QUESTION, max_tokens=300, extra_body={"ignore_eos": True}
                )
                for _ in range(48)
            )
        )
        while not asking.done():
            await asyncio.wait([asking], timeout=0.1)
            for name in most:
                beat = presence.alive().get(name)
                most[name] = max(most[name], beat.in_flight if beat is not None else 0)
        await presence.stop()
    answers = await asking
    show.table(("worker", "requests at once, at most"), [(name, str(count)) for name, count in most.items()])
    show.claim(
        "all 48 were answered in full",
        [answer.usage.completion_tokens for answer in answers if answer.usage] == [300] * 48,
    )
    show.claim("both had a share of them", min(most.values()) > 0)
