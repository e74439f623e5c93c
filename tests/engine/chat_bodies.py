"""Chats that try every field the direct path takes, and what a client would assemble from their streams."""

from __future__ import annotations

import random
from typing import Any

_SUBJECTS = ("Thread", "open", "the socket module", "json.dumps", "a list comprehension", "os.path.join")
_VERBS = ("Explain", "Describe", "What does", "Tell me about")
_MORE = "with the given path, the list of keys and the value of each module "
PROMPTS = [
    f"{verb} {subject}." if i % 3 else f"{verb} {subject} " + _MORE * (i % 5)
    for i, (verb, subject) in enumerate((v, s) for v in _VERBS for s in _SUBJECTS)
]
_USAGE = {"stream_options": {"include_usage": True}}
_CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}

VARIANTS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 1},
    {"max_tokens": 5},
    {"stop": [" the"]},
    {"stop": ["is", "module"], "include_stop_str_in_output": True},
    {"stop": "."},
    _USAGE,
    _CONTINUOUS,
    {"n": 3, "temperature": 1, "seed": 4},
    {"n": 2, "temperature": 0.7, "seed": 8, "stop": ["."]} | _CONTINUOUS,
    {"temperature": 1, "seed": 5},
    {"temperature": 2, "seed": 6},
    {"temperature": 2, "seed": 66} | _USAGE,
    {"top_k": 5, "temperature": 1, "seed": 1},
    {"presence_penalty": 1.0},
    {"frequency_penalty": 1.0},
    {"repetition_penalty": 1.2},
    {"min_tokens": 30},
    {"stop_token_ids": [462, 500]},
    {"max_completion_tokens": 7},
    {"logit_bias": {"300": 5}},
    {"bad_words": [" the"]},
    {"skip_special_tokens": False},
    {"stream_interval": 4},
    {"user": "x"},
    {"temperature": 2, "seed": 9, "stop": ["a"]},
    {"ignore_eos": True},
    {"cache_salt": "abc"},
    {"skip_special_tokens": False, "spaces_between_special_tokens": False, "temperature": 2, "seed": 3},
    {"max_tokens": 300, "temperature": 2, "seed": 12},
]


def chat(prompt: str = "Explain Thread.", **fields: Any) -> dict[str, Any]:
    """Make a greedy chat with the small model."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": "inferbus-tiny", "messages": messages, "temperature": 0, "max_tokens": 48} | fields


def bodies() -> list[dict[str, Any]]:
    """Every variant alone, and half as many mixed with another one and a system prompt that needs escaping."""
    draw = random.Random(1)
    made = []
    for i in range(len(VARIANTS) * 3 // 2):
        body = chat(PROMPTS[i % len(PROMPTS)], stream=True) | VARIANTS[i % len(VARIANTS)]
        if i >= len(VARIANTS):
            body |= draw.choice(VARIANTS)
            body["messages"] = [{"role": "system", "content": 'Say "ünï" 🙂\n'}, *body["messages"]]
        if "max_completion_tokens" in body:
            body.pop("max_tokens", None)
        made.append(body)
    return made


def assemble(events: list[Any]) -> dict[str, Any]:
    """Put a stream together as a client does: chunk boundaries are gone, everything else stays."""
    choices: dict[int, dict[str, Any]] = {}
    usage, done = None, 0
    for event in events:
        if event == "[DONE]":
            done += 1
            continue
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            whole = choices.setdefault(choice["index"], {"content": "", "role": "", "tools": {}, "logprobs": []})
            delta = choice["delta"]
            whole["content"] += delta.get("content") or ""
            whole["role"] += delta.get("role") or ""
            for call in delta.get("tool_calls") or ():
                tool = whole["tools"].setdefault(call["index"], {"name": "", "arguments": ""})
                tool["name"] += call["function"].get("name") or ""
                tool["arguments"] += call["function"].get("arguments") or ""
            whole["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
            if choice["finish_reason"]:
                whole["finish_reason"], whole["stop_reason"] = choice["finish_reason"], choice.get("stop_reason")
    if usage:
        usage.pop("prompt_tokens_details", None)  # the second of two equal requests finds the first one's cache
    return {"choices": choices, "usage": usage, "done": done}
