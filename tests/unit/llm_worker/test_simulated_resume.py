from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.recording_sink import Finish, RecordingSink, submit

from inferbus.contracts.step import Resume
from inferbus.errors import ResumeImpossible
from inferbus_llm_worker.adapters.simulated_words import simulated_answer
from inferbus_llm_worker.adapters.simulator import SimulatorEngine

MESSAGES = [{"role": "user", "content": "say some words"}]
BODY: dict[str, Any] = {
    "model": "sim",
    "messages": MESSAGES,
    "stream": True,
    "max_tokens": 9,
    "stream_options": {"include_usage": True},
}


@pytest.fixture
async def engine() -> AsyncIterator[SimulatorEngine]:
    engine = SimulatorEngine(slots=8)
    await engine.start()
    yield engine
    await engine.stop()


async def whole(engine: SimulatorEngine, body: dict[str, Any] = BODY) -> RecordingSink:
    sink = await submit(engine, body, request_id="a", created=5)
    assert isinstance(await sink.ended(), Finish)
    return sink


def text(sink: RecordingSink) -> str:
    chunks = [event for event in sink.events() if event != "[DONE]"]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


async def test_words_tell_the_conversation_and_their_place(engine: SimulatorEngine) -> None:
    answer = text(await whole(engine))
    assert answer == simulated_answer(MESSAGES, 9)
    tag = answer.split("-")[0]
    assert answer == "".join(f"{tag}-{position}" for position in range(9))
    other = [{"role": "user", "content": "say other words"}]
    assert text(await whole(engine, BODY | {"messages": other})) == simulated_answer(other, 9)
    assert simulated_answer(other, 1) != simulated_answer(MESSAGES, 1)


async def test_the_first_delta_tells_of_the_cache_and_the_last_of_the_end(engine: SimulatorEngine) -> None:
    sink = await whole(engine)
    assert sink.cached == (0, 0)
    assert sink.done_by_delta == [[]] * 8 + [[(0, "length", None)]]
    assert all(ids for ids, _ in sink.deltas)


@pytest.mark.parametrize("delivered", [1, 4, 8])
async def test_goes_on_exactly_where_it_was_cut(engine: SimulatorEngine, delivered: int) -> None:
    unbroken = await whole(engine)
    before = engine.stats().generated_tokens
    resume = unbroken.resume_after(delivered, created=5, fingerprint=engine.fingerprint)
    sink = await submit(engine, BODY, request_id="a", created=5, resume=resume)
    finish = await sink.finish()
    assert sink.deltas == unbroken.deltas[delivered:]
    assert sink.done == [(0, "length", None)]
    assert finish.usage == (await unbroken.finish()).usage
    assert engine.stats().generated_tokens - before == 9 - delivered


async def test_of_an_answer_that_was_all_delivered_only_the_end_comes(engine: SimulatorEngine) -> None:
    unbroken = await whole(engine)
    sink = await submit(engine, BODY, request_id="a", resume=unbroken.resume_after(9))
    assert (await sink.finish()).usage == (await unbroken.finish()).usage
    assert sink.deltas == []
    assert engine.stats().running == engine.stats().waiting == 0


async def test_with_nothing_delivered_it_begins(engine: SimulatorEngine) -> None:
    unbroken = await whole(engine)
    sink = await submit(engine, BODY, request_id="a", created=5, resume=unbroken.resume_after(0))
    await sink.finish()
    assert sink.deltas == unbroken.deltas


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"fingerprint": "vllm-0.1-cpu-00"}, {}),
        ({"ids": [(0, [1, 2])], "chunks": [[1, 1]]}, {}),
        ({"chunks": [[3]]}, {}),
        ({"chunks": []}, {}),
        ({}, {"max_tokens": 1}),
        ({}, {"stream": False}),
        ({}, {"messages": [{"role": "user", "content": "something else"}]}),
        ({}, {"use_beam_search": True}),
    ],
)
async def test_what_it_cannot_continue_it_refuses(
    engine: SimulatorEngine, change: dict[str, Any], body: dict[str, Any]
) -> None:
    unbroken = await whole(engine)
    resume: Resume = msgspec.structs.replace(unbroken.resume_after(2), **change)
    sink = await submit(engine, BODY | body, request_id="a", resume=resume)
    assert isinstance(await sink.ended(), ResumeImpossible)
    assert sink.deltas == []
    assert engine.stats().running == engine.stats().waiting == 0
