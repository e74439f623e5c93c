from __future__ import annotations

from tests.recording_sink import Finish, RecordingSink

from inferbus.contracts.step import Usage
from inferbus.errors import Cancelled, EngineDead
from inferbus.worker.open_calls import OpenCalls
from inferbus_llm_worker.domain.created import restamp
from inferbus_llm_worker.domain.stall import StallClock


async def test_a_call_ends_once_and_is_silent_afterwards() -> None:
    calls, sink = OpenCalls(), RecordingSink()
    call = calls.begin("a", sink)
    call.delta([(0, [1])], b"x")
    call.finish(200, Usage(1, 1, 0), b"", "text/event-stream")
    call.delta([(0, [2])], b"y")
    call.fail(EngineDead("late"))
    calls.abort("a", "later")
    assert isinstance(await sink.ended(), Finish)
    assert sink.deltas == [([(0, [1])], b"x")]
    assert len(calls) == 0


async def test_abort_stops_the_engine_and_tells_the_sink() -> None:
    calls, sink, stopped = OpenCalls(), RecordingSink(), []
    calls.begin("a", sink).on_stop(lambda: stopped.append("a"))
    calls.abort("unknown", "ignored")
    calls.abort("a", "gone")
    assert isinstance(await sink.ended(), Cancelled)
    assert stopped == ["a"]


async def test_a_stop_that_comes_before_the_engine_has_it_is_made_up_for() -> None:
    calls, sink, stopped = OpenCalls(), RecordingSink(), []
    call = calls.begin("a", sink)
    calls.abort("a", "gone")
    call.on_stop(lambda: stopped.append("a"))
    assert stopped == ["a"]


async def test_a_new_attempt_takes_the_place_of_an_old_one() -> None:
    calls, old, new = OpenCalls(), RecordingSink(), RecordingSink()
    first = calls.begin("a", old)
    second = calls.begin("a", new)
    assert isinstance(await old.ended(), Cancelled)
    first.fail(EngineDead("late"))
    second.finish(200, Usage(), b"{}", "application/json")
    assert isinstance(await new.ended(), Finish)
    assert len(calls) == 0


async def test_fail_all_reaches_every_open_call() -> None:
    calls = OpenCalls()
    sinks = [RecordingSink() for _ in range(3)]
    for number, sink in enumerate(sinks):
        calls.begin(str(number), sink)
    assert calls.fail_all(lambda: EngineDead("dead")) == 3
    errors = [await sink.ended() for sink in sinks]
    assert all(isinstance(error, EngineDead) for error in errors)
    assert len({id(error) for error in errors}) == 3


def test_restamp_touches_only_the_field() -> None:
    event = b'data: {"id":"chatcmpl-1","created":1234,"choices":[]}\n\n'
    assert restamp(event, 7) == b'data: {"id":"chatcmpl-1","created":7,"choices":[]}\n\n'
    quoted = b'{"error":{"message":"say \\"created\\":1"}}'
    assert restamp(quoted, 7) == quoted
    assert restamp(b'{"created":null}', 7) == b'{"created":null}'
    assert restamp(b": ping\n\n", 7) == b": ping\n\n"


def test_only_time_with_work_and_without_steps_is_a_stall() -> None:
    clock = StallClock(3.0)
    for _ in range(100):
        assert not clock.observe(1.0, unfinished=0, steps=5)
    assert not clock.observe(1.0, unfinished=2, steps=5)
    assert not clock.observe(1.0, unfinished=2, steps=6)
    assert not clock.observe(1.0, unfinished=2, steps=6)
    assert not clock.observe(1.0, unfinished=0, steps=6)
    assert not clock.observe(1.0, unfinished=1, steps=6)
    assert clock.observe(1.0, unfinished=1, steps=6)
