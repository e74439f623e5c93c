"""What a client gets for each mistake: status, OpenAI error body, the field's name; and that nothing was admitted."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.gateway.fakes import KEY, Call, Door

from inferbus.errors import (
    DependencyDown,
    Forbidden,
    Overloaded,
    TenantOverloaded,
    TooLarge,
    Unsupported,
)
from inferbus_gateway.settings import GatewaySettings

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "inferbus-tiny", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "inferbus-tiny", "prompt": "hi"}
EMBEDDING: dict[str, Any] = {"model": "org/mini lm", "input": "hi"}


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        (CHAT, b'{"model": "inferbus-tiny", ', None, "not valid JSON"),
        (CHAT, b"", None, "not valid JSON"),
        (CHAT, b"\xff\xfe", None, "not valid JSON"),
        (CHAT, b'{"model": "\xff", "messages": []}', None, "not valid JSON"),
        (CHAT, b'{"model": "m", "x": ' + b"[" * 100_000, None, "not valid JSON"),
        (CHAT, b"[]", None, "Expected `object`"),
        (CHAT, {"messages": HELLO["messages"]}, "model", "model"),
        (CHAT, {"model": "inferbus-tiny"}, "messages", "messages"),
        (CHAT, HELLO | {"model": 3}, "model", "Expected `str`"),
        (CHAT, HELLO | {"model": ""}, "model", "length >= 1"),
        (CHAT, HELLO | {"messages": []}, "messages", "length >= 1"),
        (CHAT, HELLO | {"messages": "hi"}, "messages", "Expected `array`"),
        (CHAT, HELLO | {"messages": [{"content": "hi"}]}, "messages[0].role", "role"),
        (CHAT, HELLO | {"messages": [{"role": 1}]}, "messages[0].role", "Expected `str`"),
        (CHAT, HELLO | {"max_tokens": "16"}, "max_tokens", "Expected `int"),
        (CHAT, HELLO | {"max_tokens": 1.5}, "max_tokens", "Expected `int"),
        (CHAT, HELLO | {"stream": "yes"}, "stream", "Expected `bool"),
        (CHAT, HELLO | {"temperature": "hot"}, "temperature", "Expected `float"),
        (CHAT, HELLO | {"tools": {}}, "tools", "Expected `array"),
        (CHAT, HELLO | {"stop": 1}, "stop", "Expected `"),
        (CHAT, HELLO | {"response_format": "json"}, "response_format", "Expected `object"),
        (CHAT, HELLO | {"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "Expected `bool"),
        ("/v1/completions", {"model": "inferbus-tiny"}, "prompt", "prompt"),
        ("/v1/completions", COMPLETION | {"prompt": 1}, "prompt", "Expected `"),
        ("/v1/completions", COMPLETION | {"logprobs": True}, "logprobs", "Expected `int"),
        ("/v1/embeddings", {"model": "org/mini lm"}, "input", "input"),
        ("/v1/embeddings", EMBEDDING | {"input": {"text": "hi"}}, "input", "Expected `"),
        ("/v1/embeddings", EMBEDDING | {"dimensions": "8"}, "dimensions", "Expected `int"),
    ],
)
async def test_a_malformed_body_is_a_400_that_names_the_field(
    door: Door, path: str, body: object, param: str | None, says: str
) -> None:
    call = await door.post(path, body).done()
    assert call.status == 400
    assert call.error["type"] == "invalid_request_error"
    assert call.error["code"] == "invalid_request"
    assert call.error["param"] == param
    assert says in call.error["message"]
    assert door.admitter.admitted.empty()


@pytest.mark.parametrize(
    "body",
    [
        HELLO | {"stream": None, "max_tokens": None, "temperature": 1, "stop": ["a"], "unheard_of": {"x": [1]}},
        HELLO | {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None}]},
    ],
)
async def test_what_clients_send_and_we_do_not_read_is_passed_on_untouched(door: Door, body: object) -> None:
    call = door.post(CHAT, body)
    engine = await door.admitter.next()
    engine.finish(200, b"{}")
    assert (await call.done()).status == 200


@pytest.mark.parametrize("prompt", ["hi", ["a", "b"], [1, 2], [[1, 2], [3]]])
async def test_every_form_of_prompt_passes(door: Door, prompt: object) -> None:
    call = door.post("/v1/completions", COMPLETION | {"prompt": prompt})
    (await door.admitter.next()).finish(200, b"{}")
    assert (await call.done()).status == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer ib-1-wrong"}, {"authorization": KEY}])
async def test_a_missing_or_wrong_key_is_a_401(door: Door, headers: dict[str, str]) -> None:
    call = await door.call("POST", CHAT, b"{}", headers).done()
    assert call.status == 401
    assert call.error["type"] == "authentication_error"
    assert call.headers["www-authenticate"] == "Bearer"


async def test_an_unknown_model_is_a_404(door: Door) -> None:
    call = await door.post(CHAT, HELLO | {"model": "nobody"}).done()
    assert (call.status, call.error["code"], call.error["param"]) == (404, "not_found", "model")


@pytest.mark.parametrize(
    ("refusal", "status", "type_", "retry_after"),
    [
        (Forbidden("not yours"), 403, "permission_error", None),
        (Unsupported("no chat"), 422, "invalid_request_error", None),
        (TooLarge("body of 9 bytes, the limit is 8 bytes"), 413, "invalid_request_error", None),
        (TenantOverloaded("yours is full", retry_after_s=7), 429, "rate_limit_error", "7"),
        (Overloaded("full", retry_after_s=2.4), 503, "server_error", "2"),
        (DependencyDown("no bus"), 503, "server_error", "1"),
        (ZeroDivisionError("secret detail"), 500, "server_error", None),
    ],
)
async def test_a_refused_admission_has_its_status_and_retry_after(
    door: Door, refusal: Exception, status: int, type_: str, retry_after: str | None
) -> None:
    door.admitter.refuse = refusal
    call = await door.post(CHAT, HELLO).done()
    assert (call.status, call.error["type"]) == (status, type_)
    assert call.headers.get("retry-after") == retry_after
    assert "secret detail" not in call.body.decode()


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-inferbus-lane": "express"}, "X-Inferbus-Lane"),
        ({"x-inferbus-deadline-ms": "soon"}, "X-Inferbus-Deadline-Ms"),
        ({"x-inferbus-deadline-ms": "0"}, "X-Inferbus-Deadline-Ms"),
        ({"x-inferbus-deadline-ms": "-5"}, "X-Inferbus-Deadline-Ms"),
        ({"content-encoding": "gzip"}, "Content-Encoding"),
    ],
)
async def test_an_unusable_header_is_a_400_that_names_it(door: Door, headers: dict[str, str], param: str) -> None:
    call = await door.post(CHAT, HELLO, **headers).done()
    assert (call.status, call.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/engine/sleep", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/nobody", 404),
    ],
)
async def test_unknown_paths_and_methods_answer_in_openais_form_too(
    door: Door, method: str, path: str, status: int
) -> None:
    call = await door.call(method, path, b"", {"authorization": f"Bearer {KEY}"}).done()
    assert call.status == status
    assert call.error["type"] == "invalid_request_error"
    if status == 405:
        assert "allow" in call.headers


# --- size and patience ---------------------------------------------------------------------------------------------


def small_door() -> Door:
    return Door(GatewaySettings(max_body_bytes=1000, body_timeout_s=0.05))


async def test_an_announced_body_over_the_limit_is_refused_before_it_is_read() -> None:
    call = Call(small_door().app, "POST", CHAT, {"authorization": f"Bearer {KEY}", "content-length": "5000"}, [])
    await call.until(lambda call: len(call.events) == 2)
    assert call.read == 0
    assert call.status == 413
    assert call.error["message"] == "the body is 5000 bytes, the limit is 1000 bytes"
    assert call.headers["connection"] == "close"
    assert not call.complete, "the connection must stay open for a moment, or the client never sees the answer"
    call.hang_up()
    await call.done()
    assert call.complete


async def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_long() -> None:
    call = Call(small_door().app, "POST", CHAT, {"authorization": f"Bearer {KEY}", "transfer-encoding": "chunked"}, [])
    for _ in range(3):
        call.give(b" " * 400, more=True)
    await call.until(lambda call: len(call.events) == 2)
    assert call.status == 413
    assert call.error["message"] == "1200 bytes of the body came, the limit is 1000 bytes"
    call.give(b"", more=False)
    await call.done()


async def test_a_body_that_never_completes_is_given_up() -> None:
    call = Call(small_door().app, "POST", CHAT, {"authorization": f"Bearer {KEY}", "content-length": "50"}, [])
    call.give(b'{"model"', more=True)
    await call.until(lambda call: len(call.events) == 2)
    assert call.status == 400
    assert "not complete after 0.05 seconds" in call.error["message"]
    call.hang_up()
    await call.done()


async def test_more_open_requests_than_the_gateway_takes_are_a_503() -> None:
    door = Door(GatewaySettings(max_open_requests=1))
    first = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    second = await door.post(CHAT, HELLO).done()
    assert (second.status, second.error["code"]) == (503, "overloaded")
    assert second.headers["retry-after"] == "1"
    engine.finish(200, b"{}")
    assert (await first.done()).status == 200
