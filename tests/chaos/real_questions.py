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
"""Long enough that a fault can hit the middle of it; strings that a small model can end."""
_PLACES = [
    (
        "Tokyo, the capital of Japan, on the island of Honshu, by the bay of the same name, where the rivers Sumida and Arakawa "
        "end, between the plain of Kanto and the sea, as many people know it from pictures, from films and from books"
    ),
    (
        "Oslo, the capital of Norway, at the end of its long fjord, between the hills that the snow covers in winter and the "
        "islands that people swim from in summer, as many people know it from pictures, from films and from books"
    ),
]
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": _PLACES}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_NO_WHITESPACE = {"202": -100, "224": -100, "494": -100, "705": -100}
"""Line feeds and spaces of inferbus-tiny, which it would put between the string and the bracket until the limit."""
TOOL: dict[str, Any] = {
    "tools": [_WEATHER],
    "tool_choice": "required",
    "logit_bias": _NO_WHITESPACE,
    "max_tokens": 600,
}
"""Arguments of a hundred tokens or more."""
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
