"""The oracle itself: it must see what it is there to see, or a chaos run proves nothing."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.chaos.assembled import Assembled, assemble
from tests.chaos.oracle import Flaws, judge, known_question, simulated_question
from tests.recording_sink import submit

from inferbus_llm_worker.adapters.simulator import SimulatorEngine

TOKENS = 12
QUESTION = simulated_question("simulator", "r1", TOKENS)


async def events_of(name: str = "r1", *, answers: str = "r1") -> list[bytes]:
    """Give what the simulator streams."""
    engine = SimulatorEngine()
    await engine.start()
    question = simulated_question("simulator", name, TOKENS)
    sink = await submit(engine, question.body, request_id=answers)
    await sink.finish()
    await engine.stop()
    return [event for event in sink.data.split(b"\n\n") if event]


@pytest.fixture
def events() -> list[bytes]:
    return asyncio.run(events_of())


def flaws_of(events: list[bytes]) -> Flaws:
    return judge(QUESTION, assemble(events), "r1")


def test_an_unbroken_answer_has_no_flaw(events: list[bytes]) -> None:
    assert len(events) == TOKENS + 2
    assert flaws_of(events) == Flaws()


def test_a_lost_token_is_seen(events: list[bytes]) -> None:
    flaws = flaws_of(events[:5] + events[6:])
    assert (flaws.lost, flaws.doubled, flaws.wrong) == (1, 0, [])


def test_a_doubled_token_is_seen(events: list[bytes]) -> None:
    flaws = flaws_of([*events[:5], events[4], *events[5:]])
    assert (flaws.lost, flaws.doubled, flaws.wrong) == (0, 1, [])


def test_two_tokens_that_changed_places_are_seen(events: list[bytes]) -> None:
    events[4], events[5] = events[5], events[4]
    assert flaws_of(events).any


def test_a_token_of_another_stream_is_seen(events: list[bytes]) -> None:
    stray = asyncio.run(events_of("r2"))[5]
    flaws = flaws_of([*events[:5], stray, *events[5:]])
    assert any("foreign" in wrong for wrong in flaws.wrong)


def test_a_chunk_that_names_another_answer_is_seen(events: list[bytes]) -> None:
    events[5] = events[5].replace(b"chatcmpl-r1", b"chatcmpl-r2")
    assert flaws_of(events).wrong


def test_another_time_of_making_is_seen(events: list[bytes]) -> None:
    events[5] = events[5].replace(b'"created":1700000000', b'"created":1700000001')
    assert flaws_of(events).wrong


def test_a_role_that_comes_twice_is_seen(events: list[bytes]) -> None:
    chunk = json.loads(events[6].removeprefix(b"data: "))
    chunk["choices"][0]["delta"]["role"] = "assistant"
    assert flaws_of([*events[:6], b"data: " + json.dumps(chunk).encode(), *events[7:]]).wrong


@pytest.mark.parametrize("end", [-1, -2])
def test_a_missing_end_or_usage_is_seen(events: list[bytes], end: int) -> None:
    del events[end]
    assert flaws_of(events).wrong


@pytest.mark.parametrize("again", [-1, -2, -3])
def test_an_end_that_comes_twice_is_seen(events: list[bytes], again: int) -> None:
    assert flaws_of([*events, events[again]]).any


def test_usage_that_counts_delivered_tokens_twice_is_seen(events: list[bytes]) -> None:
    assert b'"completion_tokens":12' in events[-2]
    events[-2] = events[-2].replace(b'"completion_tokens":12', b'"completion_tokens":20')
    assert flaws_of(events).wrong


def test_an_error_in_mid_stream_is_seen(events: list[bytes]) -> None:
    error = b'event: error\ndata: {"error":{"message":"the engine died","type":"server_error","code":"engine_dead"}}'
    assert any("engine_dead" in wrong for wrong in flaws_of([*events[:5], error]).wrong)


def test_tool_calls_are_compared_by_name_and_arguments() -> None:
    def chunk(delta: dict[str, object], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + json.dumps({"id": "chatcmpl-r1", "created": 1, "choices": [choice]}).encode()

    def call(arguments: str, **more: str) -> dict[str, object]:
        return {"tool_calls": [{"index": 0, "function": {"arguments": arguments} | more}]}

    usage = b'data: {"id":"chatcmpl-r1","created":1,"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}'
    end = [chunk({}, "tool_calls"), usage, b"data: [DONE]"]
    unbroken = [chunk({"role": "assistant"}), chunk(call('{"ci', name="weather")), chunk(call('ty":1}')), *end]
    question = known_question("tools", {}, assemble(unbroken))
    assert judge(question, assemble(unbroken), "r1") == Flaws()
    torn: Assembled = assemble([*unbroken[:2], *end])
    assert judge(question, torn, "r1").lost == 6
