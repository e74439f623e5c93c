"""The direct path gives the very bytes vLLM's own layer gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.engine.chat_bodies import assemble, bodies
from tests.recording_sink import RecordingSink, submit

from inferbus.worker.open_calls import OpenCalls
from inferbus.worker.ports import Work
from inferbus_llm_worker.adapters.vllm.engine import VllmEngine

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

CREATED = 1_700_000_000
# A field the direct path does not know; false is what vLLM assumes anyway.
THROUGH_VLLM = {"echo": False}


@contextmanager
def outputs_recorded(engine: VllmEngine) -> Iterator[list[Any]]:
    """Keep what vLLM's layer takes from the engine. Two runs of a request need not agree in where deltas are cut
    (vLLM merges late ones), so bytes are compared over the same outputs."""
    inner = engine._served._engine
    generate, outputs = inner.generate, []

    def recording(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async def follow(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for output in stream:
                outputs.append(output)
                yield output

        return follow(generate(*args, **kwargs))

    inner.generate = recording
    try:
        yield outputs
    finally:
        inner.generate = generate


async def through(engine: VllmEngine, body: dict[str, Any], *, direct: bool) -> RecordingSink:
    before = engine.direct_served
    sink = await submit(engine, body if direct else body | THROUGH_VLLM, request_id="equal", created=CREATED)
    finish = await sink.finish()
    assert engine.direct_served - before == direct
    assert (finish.status, finish.data) == (200, b"")
    assert finish.usage.completion_tokens == sink.tokens
    return sink


async def encoded(engine: VllmEngine, body: dict[str, Any], outputs: list[Any]) -> bytes:
    work = Work(key="equal", request_id="equal", path="/v1/chat/completions", body=b"", streamed=True, created=CREATED)
    call = OpenCalls().begin("equal", RecordingSink())
    stream = await engine._served._direct._prepare(work, body, call)
    return b"".join(stream._chunks.encode(output)[1] for output in outputs)


def ids_by_choice(sink: RecordingSink) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for ids, _ in sink.deltas:
        for choice, new in ids:
            found.setdefault(choice, []).extend(new)
    return found


@pytest.mark.parametrize("number", range(len(bodies())))
async def test_equal(engine: VllmEngine, number: int) -> None:
    body = bodies()[number]
    with outputs_recorded(engine) as outputs:
        vllm = await through(engine, body, direct=False)
    assert await encoded(engine, body, outputs) == vllm.data
    direct = await through(engine, body, direct=True)
    assert assemble(direct.events()) == assemble(vllm.events())
    assert ids_by_choice(direct) == ids_by_choice(vllm)


async def test_usage_is_known_without_being_asked_for(engine: VllmEngine) -> None:
    body = bodies()[0]
    plain = await (await through(engine, body, direct=True)).finish()
    shown = await through(engine, body | {"stream_options": {"include_usage": True}}, direct=True)
    usage = shown.events()[-2]["usage"]
    assert (plain.usage.prompt_tokens, plain.usage.completion_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    vllm = await (await through(engine, body, direct=False)).finish()
    assert vllm.usage.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"]
