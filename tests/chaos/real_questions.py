"""Questions for a real model, with the answers it gives while nothing breaks."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from tests.chaos.assembled import Assembled, assemble
from tests.chaos.oracle import Question, known_question
from tests.chaos.platform import ChaosPlatform
from tests.chaos.streaming import Received, receive

_LONG = {"ignore_eos": True, "max_tokens": 600}
_NOTE = {
    "type": "function",
    "function": {
        "name": "take_note",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 300, "maxLength": 340}},
            "required": ["text"],
            "additionalProperties": False,
        },
    },
}
_REPORT = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 20, "maxLength": 40},
        "lines": {
            "type": "array",
            "items": {"type": "string", "minLength": 30, "maxLength": 40},
            "minItems": 8,
            "maxItems": 8,
        },
    },
    "required": ["title", "lines"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "tools": [_NOTE],
    "tool_choice": {"type": "function", "function": {"name": "take_note"}},
    "max_tokens": 1500,
}
"""A call whose arguments take a second or more to write, so that a fault can hit the middle of them."""
SCHEMA: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": _REPORT}},
    "max_tokens": 1500,
}
_FIELDS: dict[str, dict[str, Any]] = {
    "greedy": _LONG,
    "greedy, to its own end": {"max_tokens": 700, "min_tokens": 400},
    "seeded": _LONG | {"temperature": 1, "seed": 7},
    "seeded, top_p top_k": _LONG | {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 3},
    "penalties": _LONG | {"presence_penalty": 1.5, "frequency_penalty": 0.7},
    "two choices": _LONG | {"n": 2, "temperature": 1, "seed": 5, "max_tokens": 300},
    "logprobs": _LONG | {"logprobs": True, "top_logprobs": 2, "max_tokens": 400},
    "tool call": TOOL,
    "json_schema": SCHEMA,
    "json_schema, seeded": SCHEMA | {"temperature": 1, "seed": 2},
}


def body_of(model: str, fields: dict[str, Any], prompt: str = "Explain Thread.") -> dict[str, Any]:
    """Make a streamed chat, greedy unless `fields` say otherwise."""
    messages = [{"role": "user", "content": prompt}]
    about = {"model": model, "messages": messages, "temperature": 0, "stream": True}
    return about | {"stream_options": {"include_usage": True}} | fields


async def unbroken(platform: ChaosPlatform, body: dict[str, Any], name: str) -> Assembled:
    """Ask while nothing breaks."""
    received = Received(request_id=name, gateway="gateway-0", began=time.monotonic())
    headers = {"Authorization": f"Bearer {platform.key}", "X-Request-Id": name}
    await receive(platform.url, msgspec.json.encode(body), headers, received)
    return assemble(received.events)


async def unbroken_questions(platform: ChaosPlatform) -> list[Question]:
    """Ask every kind of question once, before anything breaks."""
    questions = []
    for number, (name, fields) in enumerate(_FIELDS.items()):
        body = body_of(platform.entry.name, fields)
        questions.append(known_question(name, body, await unbroken(platform, body, f"unbroken-{number}")))
    return questions
