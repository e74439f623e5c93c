"""What clients may ask for, through vLLM's own application and past it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.engine.chat_bodies import assemble, chat
from tests.engine.waiting import until
from tests.recording_sink import submit

from inferbus.errors import Cancelled
from inferbus_llm_worker.adapters.vllm.engine import VllmEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 16}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


async def test_unstreamed_chat(engine: VllmEngine) -> None:
    finish = await (await submit(engine, chat(), request_id="plain", created=1234)).finish()
    answer = finish.json()
    assert (finish.status, finish.content_type) == (200, "application/json")
    assert (answer["id"], answer["created"]) == ("chatcmpl-plain", 1234)
    assert finish.usage.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert finish.usage.completion_tokens == answer["usage"]["completion_tokens"]
    assert finish.usage.cached_tokens == answer["usage"]["prompt_tokens_details"]["cached_tokens"]


async def test_each_delta_of_the_asgi_path_is_one_engine_output(engine: VllmEngine) -> None:
    body = chat(stream=True, logprobs=True, top_logprobs=2, stream_options={"include_usage": True})
    sink = await submit(engine, body, request_id="tapped", created=77)
    finish = await sink.finish()
    whole = assemble(sink.events())
    assert finish.usage.completion_tokens == sink.tokens == len(whole["choices"][0]["logprobs"])
    assert whole["usage"]["completion_tokens"] == sink.tokens
    assert all(ids for ids, _ in sink.deltas)
    assert sink.deltas[-1][1].endswith(b"data: [DONE]\n\n")
    assert {event["created"] for event in sink.events()[:-1]} == {77}
    for ids, data in sink.deltas:
        assert data.count(b'"logprob":') >= sum(len(new) for _, new in ids)


async def test_json_schema(engine: VllmEngine) -> None:
    for streamed in (True, False):
        body = chat("Reply in JSON.", response_format=FORMAT, max_tokens=200, stream=streamed)
        sink = await submit(engine, body, request_id=f"json-{streamed}")
        finish = await sink.finish()
        if streamed:
            text = assemble(sink.events())["choices"][0]["content"]
        else:
            text = finish.json()["choices"][0]["message"]["content"]
        assert set(json.loads(text)) == {"name", "age", "ok"}


async def test_tools(engine: VllmEngine) -> None:
    body = chat("What is the weather in Tokyo?", tools=[WEATHER], tool_choice="required", max_tokens=200)
    finish = await (await submit(engine, body, request_id="tools")).finish()
    (call,) = finish.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}
    sink = await submit(engine, body | {"stream": True}, request_id="tools-streamed")
    await sink.finish()
    choice = assemble(sink.events())["choices"][0]
    assert choice["tools"][0] == {k: call["function"][k] for k in ("name", "arguments")}
    assert choice["finish_reason"] == "tool_calls"


async def test_several_choices_and_prompts(engine: VllmEngine) -> None:
    body = chat(n=2, temperature=1, seed=3)
    finish = await (await submit(engine, body, request_id="two")).finish()
    assert len(finish.json()["choices"]) == 2
    assert finish.usage.completion_tokens == finish.json()["usage"]["completion_tokens"]
    prompts = {"model": "inferbus-tiny", "prompt": ["Return the", "Open a file"], "n": 2, "max_tokens": 6, "seed": 1}
    sink = await submit(
        engine, prompts | {"stream": True, "ignore_eos": True}, request_id="many", path="/v1/completions"
    )
    finish = await sink.finish()
    assert {choice for ids, _ in sink.deltas for choice, _ in ids} == {0, 1, 2, 3}
    assert (finish.usage.completion_tokens, sink.tokens) == (24, 24)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "Return the", "max_tokens": 4}, "choices"),
        ("/v1/responses", {"input": "Explain Thread.", "max_output_tokens": 8}, "output"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Explain Thread."}], "max_tokens": 8}, "content"),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hello."}]}, "input_tokens"),
        ("/tokenize", {"prompt": "Return the"}, "tokens"),
        ("/detokenize", {"tokens": [300, 301]}, "prompt"),
    ],
)
async def test_other_inference_paths(engine: VllmEngine, path: str, body: dict[str, Any], field: str) -> None:
    finish = await (await submit(engine, body | {"model": "inferbus-tiny"}, request_id="path", path=path)).finish()
    assert finish.status == 200, finish.data
    assert finish.json()[field]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_streams_of_other_apis_are_counted(engine: VllmEngine, path: str) -> None:
    prompt = [{"role": "user", "content": "Explain Thread."}]
    body: dict[str, Any] = {"model": "inferbus-tiny", "stream": True}
    body |= {"input": prompt, "max_output_tokens": 8} if "responses" in path else {"messages": prompt, "max_tokens": 8}
    sink = await submit(engine, body, request_id="stream", path=path)
    finish = await sink.finish()
    assert finish.usage.completion_tokens == sink.tokens == 8
    assert finish.usage.prompt_tokens > 0


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/metrics", "/sleep", "/health", "/abort_requests", "/"])
async def test_control_paths_are_not_served(engine: VllmEngine, path: str) -> None:
    finish = await (await submit(engine, chat(), request_id="control", path=path)).finish()
    assert finish.status == 404


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"max_tokens": "x"}, 400, "max_tokens"),
        ({"messages": []}, 400, ""),
        ({"messages": "x"}, 400, "messages"),
        ({"model": "other"}, 404, "other"),
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 17}, 400, "n"),
        ({"messages": [{"role": "user", "content": "word " * 4000}]}, 400, "2048"),
    ],
)
async def test_mistakes_are_answered_alike(
    engine: VllmEngine, streamed: bool, fields: dict[str, Any], status: int, word: str
) -> None:
    sink = await submit(engine, chat(stream=streamed) | fields, request_id="mistake")
    finish = await sink.finish()
    assert finish.status == status
    assert type(finish.status) is int
    assert word in finish.data.decode()
    assert (sink.deltas, finish.content_type) == ([], "application/json")


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_alias_reaches_vllm_under_its_own_name(engine: VllmEngine, streamed: bool) -> None:
    body = chat(max_tokens=2, stream=streamed) | {"model": "gpt-nothing"}
    sink = await submit(engine, body, request_id="alias", model="inferbus-tiny")
    finish = await sink.finish()
    answer = sink.events()[0] if streamed else finish.json()
    assert answer["model"] == "inferbus-tiny"


LONG = {"max_tokens": 1500, "ignore_eos": True}


@pytest.mark.parametrize(
    "fields", [{"stream": True}, {"stream": True, "n": 3, "temperature": 1}, {"stream": True, "logprobs": True}]
)
async def test_abort_of_a_stream(engine: VllmEngine, fields: dict[str, Any]) -> None:
    sink = await submit(engine, chat(**LONG) | fields, request_id="abort")
    await sink.until_deltas(3)
    engine.abort("abort")
    assert isinstance(await sink.ended(), Cancelled)
    await until(lambda: engine.unfinished == 0)


@pytest.mark.parametrize("fields", [{}, {"n": 3, "temperature": 1}])
async def test_abort_of_an_unstreamed_request(engine: VllmEngine, fields: dict[str, Any]) -> None:
    sink = await submit(engine, chat(**LONG) | fields, request_id="abort")
    await until(lambda: engine.unfinished > 0)
    engine.abort("abort")
    assert isinstance(await sink.ended(), Cancelled)
    await until(lambda: engine.unfinished == 0)


async def test_abort_before_the_engine_has_it(engine: VllmEngine) -> None:
    for fields in ({"stream": True}, {"stream": True, "logprobs": True}, {}):
        sink = await submit(engine, chat(**LONG) | fields, request_id="early")
        engine.abort("early")
        assert isinstance(await sink.ended(), Cancelled)
    await until(lambda: engine.unfinished == 0)


async def test_many_at_once_leave_nothing_behind(engine: VllmEngine) -> None:
    kinds = ({"stream": True}, {"stream": True, "logprobs": True}, {})
    sinks = [
        await submit(engine, chat(max_tokens=32, ignore_eos=True) | kinds[i % 3], request_id=f"many-{i}")
        for i in range(48)
    ]
    for i in range(0, 48, 4):
        engine.abort(f"many-{i}")
    ends = [await sink.ended() for sink in sinks]
    assert [isinstance(end, Cancelled) for end in ends] == [i % 4 == 0 for i in range(48)]
    await until(lambda: engine.unfinished == 0)
    await (await submit(engine, chat(max_tokens=1), request_id="settle")).finish()
    await until(lambda: engine.stats().running == 0 and engine.stats().waiting == 0)


async def test_statistics(engine: VllmEngine) -> None:
    before = engine.stats().generated_tokens
    prompt = "Tell me about the socket module. " * 12
    first = await (await submit(engine, chat(prompt, max_tokens=4, stream=True), request_id="s1")).finish()
    second = await (await submit(engine, chat(prompt, max_tokens=4), request_id="s2")).finish()
    assert second.usage.cached_tokens >= 64 > first.usage.cached_tokens
    assert engine.stats().generated_tokens == before + 8
    assert 0 < engine.stats().prefix_cache_hit_rate < 1
    assert engine.slots == 32
