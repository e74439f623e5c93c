"""Durable requests with real engines: the same answers as ordinary ones, on both paths through vLLM."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.running_platform import CHAT, EMBED, RunningPlatform

QUESTION = {
    "model": CHAT, "messages": [{"role": "user", "content": "Explain open."}], "temperature": 0, "max_tokens": 60,
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
BODIES: list[dict[str, Any]] = [
    QUESTION,
    QUESTION | {"n": 2, "seed": 7, "temperature": 1, "stream_options": {"include_usage": True}},
    QUESTION | {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}},
]


def events(response: httpx.Response, *, most: int = 1_000_000) -> list[tuple[str, Any]]:
    """Read (id, data) of up to so many events."""
    found: list[tuple[str, Any]] = []
    event_id = ""
    for line in response.iter_lines():
        kind, _, value = line.partition(": ")
        if kind == "id":
            event_id = value
        elif kind == "data":
            found.append((event_id, value if value == "[DONE]" else json.loads(value)))
            if len(found) >= most:
                break
    return found


def assembled(found: list[tuple[str, Any]]) -> tuple[dict[int, str], dict[int, str], Any]:
    """Give what a client makes of events: text and finish reason of every choice, and the usage. (How many tokens an
    event has is the moment's: an engine that waited for a grammar gives several at once.)"""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage = None
    assert found[-1][1] == "[DONE]"
    for _, chunk in found[:-1]:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
    return texts, reasons, usage


@pytest.mark.parametrize("body", BODIES, ids=["plain", "two choices", "json_schema"])
def test_a_durable_stream_says_what_an_ordinary_one_says_from_any_place(
    platform: RunningPlatform, body: dict[str, Any]
) -> None:
    auth = {"Authorization": f"Bearer {platform.key}"}
    body = body | {"stream": True}
    with httpx.Client(base_url=platform.url, headers=auth, timeout=60) as http:
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            ordinary = events(response)
        with http.stream("POST", "/v1/chat/completions", json=body, headers={"X-Inferbus-Durable": "true"}) as response:
            request_id = response.headers["x-request-id"]
            begun = events(response, most=3)
        with http.stream(
            "GET", f"/v1/requests/{request_id}/events", headers={"Last-Event-ID": begun[-1][0]}
        ) as response:
            rest = events(response)
        assert assembled(begun + rest) == assembled(ordinary)
        assert len({event_id for event_id, _ in begun + rest}) == len(begun + rest)
        found = http.get(f"/v1/requests/{request_id}").json()
    assert found["status"] == "completed"
    assert found["usage"]["completion_tokens"] > 0


def test_an_embedding_under_an_idempotency_key_is_made_once(platform: RunningPlatform) -> None:
    body = {"model": EMBED, "input": "the sky"}
    headers = {"Authorization": f"Bearer {platform.key}", "Idempotency-Key": "e1"}
    with httpx.Client(base_url=platform.url, headers=headers, timeout=60) as http:
        first, second = (http.post("/v1/embeddings", json=body) for _ in range(2))
        assert http.post("/v1/embeddings", json=body | {"input": "the sea"}).status_code == 409
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert (first.headers.get("x-inferbus-replayed"), second.headers["x-inferbus-replayed"]) == (None, "true")


def test_what_the_engine_refuses_is_kept_too(platform: RunningPlatform, client: OpenAI) -> None:
    headers = {"Authorization": f"Bearer {platform.key}", "X-Inferbus-Durable": "true"}
    body = QUESTION | {"temperature": -1, "stream": True}
    with httpx.Client(base_url=platform.url, headers=headers, timeout=60) as http:
        refused = http.post("/v1/chat/completions", json=body)
        found = http.get(f"/v1/requests/{refused.headers['x-request-id']}").json()
    assert refused.status_code == 400
    assert (found["status"], found["http_status"], found["answer"]) == ("failed", 400, refused.json())
    assert client.models.list().data
