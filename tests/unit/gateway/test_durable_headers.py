"""How a request says that its answer is to be kept, and what it hears where it says so wrongly."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.gateway.fakes import Call, Door


def _error(call: Call) -> dict[str, str]:
    error: dict[str, str] = msgspec.json.decode(call.body)["error"]
    return error


PATH = "/v1/chat/completions"
BODY = {"model": "inferbus-tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-inferbus-durable": "perhaps"}, "X-Inferbus-Durable"),
        ({"idempotency-key": "k" * 256}, "Idempotency-Key"),
        ({"idempotency-key": " "}, "Idempotency-Key"),
        ({"idempotency-key": "sch\u00f6n"}, "Idempotency-Key"),
        ({"x-inferbus-durable": "true", "last-event-id": "7"}, "Last-Event-ID"),
    ],
)
async def test_an_unusable_header_is_named(door: Door, headers: dict[str, str], param: str) -> None:
    call = await door.post(PATH, BODY, **headers).done()
    assert call.status == 400
    assert _error(call)["param"] == param
    assert door.durable.asked == []


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"x-inferbus-durable": "true"}, ""),
        ({"x-inferbus-durable": "1"}, ""),
        ({"idempotency-key": "k1"}, "k1"),
        ({"idempotency-key": "k1", "x-inferbus-durable": "false"}, "k1"),
    ],
)
async def test_either_header_keeps_the_answer(door: Door, headers: dict[str, str], key: str) -> None:
    call = await door.post(PATH, BODY, x_request_id="r1", **headers).done()
    assert (call.status, _error(call)["code"]) == (409, "conflict")  # what the fake says to all
    (asked,) = door.durable.asked
    assert (asked.idempotency_key, asked.request_id, asked.model) == (key, "r1", "inferbus-tiny")


@pytest.mark.parametrize("path", ["/v1/requests/r1", "/v1/requests/r1/events", "/v1/requests/not%20one"])
async def test_what_is_not_there_is_a_404(door: Door, path: str) -> None:
    call = await door.get(path).done()
    assert (call.status, _error(call)["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/requests/r1", "/v1/requests/r1/events"])
async def test_without_a_key_nothing_is_said(door: Door, path: str) -> None:
    call = await door.call("GET", path, b"", {}).done()
    assert call.status == 401
