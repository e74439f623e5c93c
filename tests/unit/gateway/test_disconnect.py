"""A client that hangs up cancels its request, whatever it was doing, streamed or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.gateway.fakes import KEY, PATIENCE_S, Call, Door

from inferbus.errors import DependencyDown, Overloaded

CHAT = "/v1/chat/completions"


def hello(*, stream: bool) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": stream}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["queued", "prefill", "decode"])
async def test_hanging_up_cancels_in_every_phase(phase: str, stream: bool) -> None:
    with capture_logs() as lines:
        door = Door()
        call = door.post(CHAT, hello(stream=stream))
        engine = await door.admitter.next()
        if phase != "queued":
            engine.begin()
        if phase == "decode" and stream:  # an answer that is not streamed gives no sign while it is decoded
            engine.chunk(b"data: 1\n\n")
            await call.until(lambda call: len(call.pieces) == 1)
        call.hang_up()
        await asyncio.wait_for(engine.closed.wait(), PATIENCE_S)
        await call.done()
    assert engine.cancelled
    assert door.deps.observer.open_requests == door.deps.observer.open_streams == 0
    [line] = [line for line in lines if line["event"] == "request_finished"]
    assert (line["status"], line["error"]) == (499, "cancelled")
    assert line["phase"] == ("prefill" if phase == "decode" and not stream else phase)


async def test_hanging_up_during_the_upload_admits_nothing(door: Door) -> None:
    call = Call(door.app, "POST", CHAT, {"authorization": f"Bearer {KEY}", "content-length": "50"}, [(b"{", True)])
    call.hang_up()
    await call.done()
    assert call.events == []
    assert door.admitter.admitted.empty()


async def test_hanging_up_during_admission_cancels_once_it_is_admitted(door: Door) -> None:
    call = door.post(CHAT, hello(stream=True))
    call.hang_up()
    engine = await door.admitter.next()
    await call.done()
    assert engine.cancelled


async def test_the_end_of_a_connection_after_the_answer_cancels_nothing(door: Door) -> None:
    call = door.post(CHAT, hello(stream=False))
    engine = await door.admitter.next()
    engine.begin()
    engine.finish(200, b"{}")
    await call.done()
    call.hang_up()
    assert call.status == 200
    assert not engine.cancelled


async def test_a_cancel_from_elsewhere_is_told_to_the_client(door: Door) -> None:
    call = door.post(CHAT, hello(stream=False))
    engine = await door.admitter.next()
    engine.exchange.cancel()
    await call.done()
    assert (call.status, call.error["code"]) == (499, "cancelled")


async def test_a_server_that_stops_hard_cancels_what_is_open() -> None:
    with capture_logs() as lines:
        door = Door()
        call = door.post(CHAT, hello(stream=True))
        engine = await door.admitter.next()
        engine.begin()
        engine.chunk(b"data: 1\n\n")
        await call.until(lambda call: len(call.pieces) == 1)
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.task
    assert engine.cancelled
    assert lines[-1]["status"] == 499


async def test_a_bug_while_answering_frees_the_engine_and_is_logged() -> None:
    with capture_logs() as lines:
        door = Door()
        call = door.post(CHAT, hello(stream=True))
        engine = await door.admitter.next()
        engine.begin()
        engine.chunk(b"data: 1\n\n")
        await call.until(lambda call: len(call.pieces) == 1)
        call.broken = True
        engine.chunk(b"data: 2\n\n")
        with pytest.raises(RuntimeError):
            await call.done()
    assert engine.cancelled
    assert [line["event"] for line in lines] == ["request_crashed", "request_finished"]
    assert (lines[1]["status"], lines[1]["error"]) == (500, "internal")


async def test_a_refusal_leaves_no_request_open(door: Door) -> None:
    door.admitter.refuse = DependencyDown("no bus")
    await door.post(CHAT, hello(stream=True)).done()
    assert door.deps.observer.open_requests == door.deps.observer.open_streams == 0


async def test_what_the_bus_refuses_after_all_was_not_admitted() -> None:
    with capture_logs() as lines:
        door = Door()
        door.admitter.script = lambda engine: setattr(
            engine.exchange, "rate_head", b"x-ratelimit-limit-requests: 5\r\n"
        )
        call = door.post(CHAT, hello(stream=False))
        engine = await door.admitter.next()
        engine.exchange.refuse(Overloaded("the queue is full", retry_after_s=3))
        await call.done()
    assert (call.status, call.error["code"], call.headers["retry-after"]) == (503, "overloaded", "3")
    assert "x-ratelimit-limit-requests" not in call.headers
    assert (lines[-1]["status"], lines[-1]["phase"], lines[-1]["error"]) == (503, "admission", "overloaded")
    assert door.deps.observer.open_requests == 0
