from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.recording_sink import Finish, RecordingSink, submit

from inferbus.errors import Cancelled, EngineDead
from inferbus.worker.ports import Work
from inferbus_llm_worker.adapters.simulated_words import simulated_answer
from inferbus_llm_worker.adapters.simulator import SimulatorEngine

CHAT: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": "say five words please now"}]}


@pytest.fixture
async def engine() -> AsyncIterator[SimulatorEngine]:
    engine = SimulatorEngine(slots=8)
    await engine.start()
    yield engine
    await engine.stop()


async def test_streams_the_shape_of_a_chat(engine: SimulatorEngine) -> None:
    body = CHAT | {"stream": True, "max_tokens": 5, "stream_options": {"include_usage": True}}
    sink = await submit(engine, body, request_id="a", created=42)
    finish = await sink.finish()
    *chunks, usage, done = sink.events()
    assert done == "[DONE]"
    assert [chunk["id"] for chunk in chunks] == ["chatcmpl-a"] * 5
    assert {(chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", 42, "sim")
    }
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["length"]
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    assert (finish.status, finish.data, sink.tokens) == (200, b"", 5)
    assert (finish.usage.prompt_tokens, finish.usage.completion_tokens) == (5, 5)


async def test_answers_unstreamed(engine: SimulatorEngine) -> None:
    sink = await submit(engine, CHAT | {"max_completion_tokens": 3}, request_id="a")
    finish = await sink.finish()
    assert sink.deltas == []
    assert finish.content_type == "application/json"
    assert finish.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": simulated_answer(CHAT["messages"], 3),
    }
    assert finish.json()["usage"]["completion_tokens"] == 3


async def test_all_requests_step_in_the_same_tick(engine: SimulatorEngine) -> None:
    ticks: list[int] = []
    tick = 0

    class Ticking(RecordingSink):
        def delta(self, *delta: Any) -> None:
            super().delta(*delta)
            ticks.append(tick)

    sinks = []
    for name in "abcd":
        sink = Ticking()
        sinks.append(sink)
        await engine.submit(_work(name, CHAT | {"stream": True, "max_tokens": 6}), sink)
    while not all(sink.end.done() for sink in sinks):
        tick += 1
        await asyncio.sleep(0)
    steps = {t: ticks.count(t) for t in ticks}
    assert list(steps.values()) == [4] * 6


def _work(request_id: str, body: dict[str, Any]) -> Work:
    return Work(
        key=request_id,
        request_id=request_id,
        path="/v1/chat/completions",
        body=json.dumps(body).encode(),
        streamed=True,
        created=1,
    )


async def test_abort_ends_at_once_and_frees_the_slot(engine: SimulatorEngine) -> None:
    sink = await submit(engine, CHAT | {"stream": True, "max_tokens": 10_000_000}, request_id="a")
    await sink.until_deltas(3)
    engine.abort("a")
    assert isinstance(await sink.ended(), Cancelled)
    engine.abort("a")
    other = await submit(engine, CHAT | {"max_tokens": 2}, request_id="b")
    await other.finish()
    assert engine.stats().running == 0


async def test_more_than_the_slots_wait(engine: SimulatorEngine) -> None:
    sinks = [await submit(engine, CHAT | {"max_tokens": 4}, request_id=str(i)) for i in range(20)]
    assert engine.stats().waiting >= 12
    ends = [await sink.finish() for sink in sinks]
    assert all(end.status == 200 for end in ends)
    assert engine.stats().generated_tokens == 80


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        ({"model": "sim"}, 400, "messages"),
        (CHAT | {"max_tokens": "x"}, 400, "max_tokens"),
        (CHAT | {"n": 17}, 400, "n"),
    ],
)
async def test_bad_bodies_get_openai_errors(engine: SimulatorEngine, body: Any, status: int, param: str | None) -> None:
    finish = await (await submit(engine, body, request_id="a")).finish()
    assert finish.status == status
    assert finish.json()["error"]["param"] == param


async def test_other_paths_are_not_found(engine: SimulatorEngine) -> None:
    finish = await (await submit(engine, CHAT, request_id="a", path="/v1/completions")).finish()
    assert finish.status == 404


async def test_pace_is_kept() -> None:
    engine = SimulatorEngine(slots=2, ttft_s=0.05, itl_s=0.02)
    await engine.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    sink = await submit(engine, CHAT | {"stream": True, "max_tokens": 4}, request_id="a")
    await sink.until_deltas(1)
    assert loop.time() - began >= 0.05
    await sink.finish()
    assert loop.time() - began >= 0.05 + 3 * 0.02
    await engine.stop()


async def test_stop_fails_what_runs_and_start_begins_anew() -> None:
    engine = SimulatorEngine()
    await engine.start()
    sink = await submit(engine, CHAT | {"stream": True, "max_tokens": 10_000_000}, request_id="a")
    await sink.until_deltas(1)
    await engine.stop()
    assert isinstance(await sink.ended(), EngineDead)
    await engine.start()
    end = await (await submit(engine, CHAT, request_id="a")).ended()
    assert isinstance(end, Finish)
    assert engine.stats().restarts == 1
    await engine.stop()
