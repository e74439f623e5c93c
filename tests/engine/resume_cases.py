"""Requests whose answers are cut and continued, and what a client has put together of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from tests.engine.chat_bodies import PROMPTS, chat

from inferbus.worker.tasks import CHAT, COMPLETIONS, MESSAGES

USAGE = {"stream_options": {"include_usage": True}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 3, "maxItems": 6},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}}
MULTI_BYTE = "naïve 🙂 日本語 Ελλάδα — 𝔘𝔫𝔦 ñandú 한국어 🏳️‍🌈 ok"  # noqa: RUF001  # letters of four bytes are meant
_CITIES = [f"What is the weather in {city}?" for city in ("Paris", "Oslo", "Tokyo")]
_JSON = [f"Reply in JSON. {prompt}" for prompt in PROMPTS[:3]]
_LONG = {"ignore_eos": True}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Bodies of one kind. `plain`: the direct path takes them, so they are tried on both. `everywhere`: cut them after
    each delta, not at a few places."""

    fields: dict[str, Any]
    prompts: tuple[str, ...] = tuple(PROMPTS[:3])
    path: str = CHAT
    plain: bool = False
    everywhere: bool = False

    def bodies(self) -> list[dict[str, Any]]:
        made = [self._body(prompt) for prompt in self.prompts]
        # `echo: false` is what vLLM assumes anyway; the direct path does not know the field.
        return made + [body | {"echo": False} for body in made] if self.plain else made

    def _body(self, prompt: str) -> dict[str, Any]:
        body = chat(prompt, stream=True, max_tokens=64) | USAGE | self.fields
        if self.path == COMPLETIONS:
            body["prompt"] = body.pop("messages")[0]["content"]
        if self.path == MESSAGES:
            del body["stream_options"]
        return body


CASES: dict[str, Case] = {
    "greedy": Case(fields=_LONG, plain=True),
    "natural end, min_tokens": Case(fields={"min_tokens": 40}, plain=True),
    "seeded": Case(fields=_LONG | {"temperature": 1, "seed": 7}, plain=True),
    "seeded, top_p top_k min_p": Case(
        fields=_LONG | {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 3}, plain=True
    ),
    "raw bytes": Case(fields=_LONG | {"temperature": 2, "seed": 11}, plain=True),
    "presence and frequency": Case(fields=_LONG | {"presence_penalty": 1.5, "frequency_penalty": 0.7}, plain=True),
    "repetition": Case(fields=_LONG | {"repetition_penalty": 1.3}, plain=True),
    "bad_words, logit_bias": Case(
        fields=_LONG | {"bad_words": [" the", " list of"], "logit_bias": {"300": 1.5}}, plain=True
    ),
    "stop strings": Case(fields={"stop": ["current e", " value", "ing a "]}, plain=True),
    "stop strings, included": Case(
        fields={"stop": [". ", " the "], "include_stop_str_in_output": True, "min_tokens": 20}, plain=True
    ),
    "continuous usage": Case(
        fields=_LONG | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}, plain=True
    ),
    "stream_interval": Case(fields=_LONG | {"stream_interval": 4}, plain=True),
    "two choices": Case(fields=_LONG | {"n": 2, "temperature": 1, "seed": 5}, plain=True),
    "three choices, some ended": Case(
        fields={"n": 3, "temperature": 1, "seed": 5, "stop": [".", ","]}, prompts=tuple(PROMPTS[:5]), plain=True
    ),
    "logprobs": Case(fields=_LONG | {"logprobs": True, "top_logprobs": 3, "temperature": 1.5, "seed": 2}),
    "tools auto": Case(fields={"tools": [WEATHER], "tool_choice": "auto"}, prompts=tuple(_CITIES), everywhere=True),
    "tools required": Case(fields={"tools": [WEATHER], "tool_choice": "required"}, prompts=tuple(_CITIES), everywhere=True),
    "tools required, seeded": Case(
        fields={"tools": [WEATHER], "tool_choice": "required", "temperature": 1, "seed": 9}, prompts=tuple(_CITIES), everywhere=True
    ),
    "json_schema": Case(fields=SCHEMA | {"max_tokens": 160}, prompts=tuple(_JSON)),
    "json_schema, seeded": Case(
        fields=SCHEMA | {"max_tokens": 160, "temperature": 1.2, "seed": 2}, prompts=tuple(_JSON)
    ),
    "json_object": Case(fields={"response_format": {"type": "json_object"}}, prompts=tuple(_JSON)),
    "regex": Case(
        fields={"structured_outputs": {"regex": "([a-z]{3,7} ){8,12}end"}, "temperature": 1, "seed": 4}
    ),
    "completions, logprobs": Case(fields=_LONG | {"logprobs": 2}, path=COMPLETIONS),
    "completions, echo": Case(fields=_LONG | {"echo": True}, path=COMPLETIONS),
    "completions, two choices, stop": Case(
        fields={"n": 2, "temperature": 1, "seed": 5, "stop": [".", "\n"]}, path=COMPLETIONS
    ),
    "messages": Case(fields={}, path=MESSAGES),
}  # fmt: skip

ELSEWHERE = (
    "greedy",
    "seeded",
    "presence and frequency",
    "stop strings",
    "three choices, some ended",
    "tools required, seeded",
    "json_schema, seeded",
    "completions, two choices, stop",
)
"""What is also continued by a second engine process, whose caches are cold."""


def assembled_messages(data: bytes) -> dict[str, Any]:
    """Put a stream of /v1/messages together: its blocks, their text and arguments, how it stopped, usage."""
    blocks: dict[int, list[str]] = {}
    rest: list[Any] = []
    for line in data.decode().splitlines():
        event = json.loads(line[6:]) if line.startswith("data: {") else {"type": line}
        if event["type"] == "content_block_start":
            blocks[event["index"]] = [event["content_block"]["type"], ""]
        elif event["type"] == "content_block_delta":
            blocks[event["index"]][1] += event["delta"].get("text", "") + event["delta"].get("partial_json", "")
        elif event["type"] not in ("", "event: content_block_delta"):
            rest.append(event)
    return {"blocks": blocks, "rest": rest}
