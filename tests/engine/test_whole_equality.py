"""Chats that are not streamed: past the web framework they give the very bytes, and the refusals, of vLLM's application."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.engine.chat_bodies import bodies, chat
from tests.engine.test_requests import FORMAT, WEATHER
from tests.recording_sink import Finish, submit

from inferbus_llm_worker.adapters.vllm.engine import VllmEngine
from inferbus_llm_worker.adapters.vllm.tap import CURRENT

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

_CALL_ID = re.compile(rb'"id":"(?:chatcmpl-tool|call_)[^"]*"')
"""vLLM draws these."""
UNSTREAMED = ("stream", "stream_options", "stream_interval")

ASKED: list[dict[str, Any]] = [
    *({name: value for name, value in body.items() if name not in UNSTREAMED} for body in bodies()[:30]),
    chat(logprobs=True, top_logprobs=3),
    chat(logprobs=True, n=2, temperature=1, seed=3),
    chat(response_format=FORMAT, max_tokens=120),
    chat("What is the weather in Paris?", tools=[WEATHER], tool_choice="auto", max_tokens=120),
    chat("What is the weather in Paris?", tools=[WEATHER], tool_choice="required", max_tokens=120),
    chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=120),
    chat(tools=[WEATHER], tool_choice="none"),
    chat(echo=True),
    chat(return_token_ids=True),
    chat(prompt_logprobs=1),
    chat(stream=False, metadata={"a": "b"}),
    chat(messages=[{"role": "user"}]),
    chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Explain open."}]}]),
]
REFUSED: list[dict[str, Any]] = [
    chat(max_tokens="many"),
    chat(max_tokens=-1),
    chat(max_tokens=100_000),
    chat("word " * 5000),
    chat(temperature=9),
    chat(n=0),
    chat(messages="hello"),
    chat(messages=[]),
    chat(messages=[{"content": "x"}]),
    chat(tool_choice="required"),
    chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "nobody"}}),
    chat(top_logprobs=2),
    chat(logprobs=True, top_logprobs=100),
    chat(stream_options={"include_usage": True}),
    chat(response_format={"type": "json_schema"}),
    chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}),
    chat(logit_bias={"99999999": 1}),
    chat(stop_token_ids=["a"]),
    chat(chat_template="{{ nobody() }}"),
]


async def through(engine: VllmEngine, body: dict[str, Any], *, whole: bool) -> Finish:
    served = engine._served
    kept = served._whole
    assert kept is not None
    assert kept.takes("/v1/chat/completions", body)
    served._whole = kept if whole else None
    try:
        sink = await submit(engine, body, request_id="equal", created=1_700_000_000)
        finish = await sink.finish(60.0)
    finally:
        served._whole = kept
    assert not sink.deltas
    return finish


@pytest.mark.parametrize("number", range(len(ASKED)))
async def test_equal(engine: VllmEngine, number: int) -> None:
    body = ASKED[number]
    await through(engine, body, whole=False)  # so that both find the same in the prefix cache
    theirs = await through(engine, body, whole=False)
    ours = await through(engine, body, whole=True)
    assert theirs.status == 200
    assert _CALL_ID.sub(b"", ours.data) == _CALL_ID.sub(b"", theirs.data)
    assert (ours.status, ours.usage, ours.content_type) == (theirs.status, theirs.usage, theirs.content_type)


@pytest.mark.parametrize("number", range(len(REFUSED)))
async def test_refused_alike(engine: VllmEngine, number: int) -> None:
    body = REFUSED[number]
    theirs, ours = await through(engine, body, whole=False), await through(engine, body, whole=True)
    assert theirs.status >= 400, theirs.data
    assert (ours.status, json.loads(ours.data)) == (theirs.status, json.loads(theirs.data))
    assert engine.unfinished == 0


async def test_streams_and_other_endpoints_are_not_its_own(engine: VllmEngine) -> None:
    whole = engine._served._whole
    assert not whole.takes("/v1/chat/completions", chat(stream=True))
    assert not whole.takes("/v1/completions", {"prompt": "x"})


@pytest.mark.parametrize("error", [ValueError, NotImplementedError, RuntimeError, KeyError])
async def test_what_fails_within_the_engine_is_told_alike(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    asked = []

    async def fails(*_: Any) -> None:
        tap = CURRENT.get()
        assert tap is not None
        tap.reached_engine = True
        asked.append(tap)
        raise error("broken in there")

    monkeypatch.setattr(engine._served._whole._serving, "create_chat_completion", fails)
    theirs, ours = await through(engine, chat(), whole=False), await through(engine, chat(), whole=True)
    assert theirs.status >= 400
    assert (ours.status, json.loads(ours.data)) == (theirs.status, json.loads(theirs.data))
    assert len(asked) == 2, "what has reached the engine is not asked a second time"
