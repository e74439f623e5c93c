"""A streamed answer in every order things can happen in: chunks, comments, late and early errors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.gateway.fakes import Door

from inferbus.answers.exchange import MAX_BUFFER_BYTES
from inferbus.contracts.step import Delta
from inferbus.errors import DeadlineWhileQueued, EngineDead, InferbusError, Poison
from inferbus_gateway.ports import Place
from inferbus_gateway.settings import GatewaySettings

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def impatient_door() -> Door:
    return Door(GatewaySettings(queue_comment_after_s=0.02, comment_every_s=0.02))


async def test_the_body_is_admitted_as_it_arrived_and_the_ask_is_complete(door: Door) -> None:
    body = b'{ "stream":true, "messages":[{"role":"user","content":"h\\u0069"}],"model":"tiny", "x":1.0 }'
    call = door.post(
        CHAT, body, **{"x-inferbus-lane": "batch", "x-inferbus-deadline-ms": "2500", "x-request-id": "r-1"}
    )
    engine = await door.admitter.next()
    ask = engine.ask
    assert ask.body == body
    assert (ask.model, ask.task, ask.path, ask.lane) == ("tiny", "chat", CHAT, "batch")
    assert (ask.streamed, ask.deadline_s, ask.request_id) == (True, 2.5, "r-1")
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    engine.finish()
    assert (await call.done()).headers["x-request-id"] == "r-1"


@pytest.mark.parametrize("given", ["no spaces", "x" * 129, "ümlaut", ""])
async def test_a_request_id_that_cannot_be_one_is_replaced(door: Door, given: str) -> None:
    call = door.post(CHAT, HELLO, **{"x-request-id": given})
    engine = await door.admitter.next()
    engine.finish(400, b"{}")
    await call.done()
    assert call.headers["x-request-id"] == engine.ask.request_id != given
    assert len(call.headers["x-request-id"]) == 32


async def test_chunks_pass_as_they_come_and_those_that_wait_leave_together(door: Door) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    await call.until(lambda call: len(call.pieces) == 1)
    assert call.status == 200
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert call.headers["cache-control"] == "no-cache"
    assert "content-length" not in call.headers
    for data in (b"data: 2\n\n", b"data: 3\n\n", b"data: [DONE]\n\n"):
        engine.chunk(data)
    engine.finish()
    await call.done()
    assert call.pieces == [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\ndata: [DONE]\n\n", b""]
    assert call.complete
    assert not engine.cancelled


async def test_the_response_does_not_start_before_there_is_something_to_say(door: Door) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.finish(400, b'{"error":{"message":"too long"}}')
    await call.done()
    assert call.status == 400, "an engine that refuses at once keeps its own status"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["content-length"] == str(len(call.body))
    assert call.body == b'{"error":{"message":"too long"}}'


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (DeadlineWhileQueued("no worker"), 503, "deadline_queued"),
        (EngineDead("it died"), 503, "engine_dead"),
        (Poison("it kills"), 500, "poison"),
        (InferbusError("a bug"), 500, "internal"),
    ],
)
async def test_an_error_before_the_first_chunk_is_an_ordinary_error(
    door: Door, error: InferbusError, status: int, code: str
) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.fail(error)
    await call.done()
    assert (call.status, call.error["code"]) == (status, code)


async def test_a_queued_stream_starts_with_comments_then_goes_on_as_usual() -> None:
    door = impatient_door()
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    await call.until(lambda call: len(call.pieces) >= 2)
    assert call.status == 200
    assert set(call.pieces) == {b": queued position=12 expected_wait_s=3.4\n\n"}
    door.places.place = Place(2, None)
    await call.until(lambda call: b": queued position=2\n\n" in call.pieces)
    engine.begin()
    await call.until(lambda call: b": running\n\n" in call.pieces)
    engine.chunk(b"data: 1\n\n")
    engine.finish()
    await call.done()
    assert [piece for piece in call.pieces if not piece.startswith(b":")] == [b"data: 1\n\n", b""]


async def test_a_stream_that_falls_silent_is_kept_alive_by_comments() -> None:
    door = impatient_door()
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    await call.until(lambda call: b": running\n\n" in call.pieces)
    engine.finish()
    await call.done()


async def test_a_late_error_is_an_event_and_ends_the_stream(door: Door) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    await call.until(lambda call: len(call.pieces) == 1)
    engine.fail(EngineDead("the worker was lost"))
    await call.done()
    assert call.complete
    last = call.pieces[-1]
    assert last.startswith(b"event: error\ndata: ")
    assert last.endswith(b"\n\n")
    error = msgspec.json.decode(last.removeprefix(b"event: error\ndata: "))["error"]
    assert (error["code"], error["message"]) == ("engine_dead", "the worker was lost")
    assert b"[DONE]" not in call.body


async def test_an_engine_that_refuses_after_comments_began_answers_with_an_event() -> None:
    door = impatient_door()
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    await call.until(lambda call: len(call.pieces) == 1)
    engine.begin()
    engine.finish(400, b'{"error":\n {"message":"too long"}}')
    await call.done()
    assert call.pieces[-1] == b'event: error\ndata: {"error":  {"message":"too long"}}\n\n'


async def test_what_came_before_an_error_is_still_delivered(door: Door) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    engine.fail(EngineDead("gone"))
    await call.done()
    assert call.pieces[0] == b"data: 1\n\n"
    assert call.pieces[-1].startswith(b"event: error\n")


async def test_a_client_that_reads_too_slowly_is_told_so(door: Door) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.exchange.feed(Delta(1, 1, 1, [], b"x" * MAX_BUFFER_BYTES))
    engine.chunk(b"one more")
    await call.done()
    assert b'"code":"slow_client"' in call.pieces[-1]


@pytest.mark.parametrize("path", [CHAT + "/", "//v1//chat/completions"])
async def test_unusual_spellings_of_the_path_lead_to_the_same_place(door: Door, path: str) -> None:
    call = door.post(path, HELLO)
    engine = await door.admitter.next()
    assert engine.ask.path == CHAT
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    engine.finish()
    await call.done()
    assert call.body == b"data: 1\n\n"


async def test_the_documented_route_leads_to_the_same_place(door: Door) -> None:
    door.app = door.app.site
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    engine.finish()
    await call.done()
    assert call.body == b"data: 1\n\n"


# --- not streamed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "tiny", "messages": [{"role": "user"}]}),
        ("/v1/completions", {"model": "tiny", "prompt": "hi", "stream": False}),
        ("/v1/embeddings", {"model": "org/mini lm", "input": ["a", "b"]}),
    ],
)
async def test_an_answer_that_is_not_streamed_is_one_json_body(door: Door, path: str, body: object) -> None:
    call = door.post(path, body)
    engine = await door.admitter.next()
    assert engine.ask.path == path
    assert not engine.ask.streamed
    engine.begin()
    engine.finish(200, b'{"id":"x"}')
    await call.done()
    assert call.status == 200
    assert call.headers["content-type"] == "application/json"
    assert call.headers["content-length"] == "10"
    assert call.headers["x-request-id"] == engine.ask.request_id
    assert call.pieces == [b'{"id":"x"}']
    assert engine.closed.is_set()


@pytest.mark.parametrize(("begun", "status"), [(False, 503), (True, 504)])
async def test_a_deadline_says_whether_an_engine_had_the_request(door: Door, begun: bool, status: int) -> None:
    body = {"model": "tiny", "messages": [{"role": "user"}]}
    call = door.post(CHAT, body, **{"x-inferbus-deadline-ms": "20"})
    engine = await door.admitter.next()
    if begun:
        engine.begin()
    await call.done()
    assert call.status == status
    assert ("retry-after" in call.headers) == (not begun)
    assert engine.cancelled
