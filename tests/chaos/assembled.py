"""What a client puts together of a stream of chat chunks: the answer, apart from how it was cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

DONE = b"data: [DONE]"


class Choice(msgspec.Struct, kw_only=True):
    """One choice. `calls` are the tool calls by index as [name, arguments]; their ids are random, so they are not kept."""

    roles: int = 0
    content: str = ""
    calls: dict[int, list[str]] = {}
    logprobs: list[str] = []
    finish_reasons: list[str] = []
    stop_reason: Any = None


class Assembled(msgspec.Struct, kw_only=True):
    """A whole stream. `tokens` = (prompt, completion) as the usage says; `errors` are error events; `ids` and `created`
    are all that its chunks named, `dones` counts the end marks, `late` the events behind the first of them."""

    choices: dict[int, Choice] = {}
    tokens: list[tuple[int, int]] = []
    errors: list[str] = []
    ids: set[str] = set()
    created: set[int] = set()
    dones: int = 0
    late: int = 0


def is_token(event: bytes) -> bool:
    """Say whether an event carries a piece of the answer."""
    return event.startswith((b"data: {", b"id: ")) and b'"choices":[{' in event


def assemble(events: Sequence[bytes]) -> Assembled:
    """Put the events of one stream together (comments left out by whoever read them)."""
    whole = Assembled()
    for event in events:
        if whole.dones:
            whole.late += 1
        data = _data_of(event)
        if data == b"[DONE]":
            whole.dones += 1
        elif data:
            _add(whole, msgspec.json.decode(data))
    return whole


def _data_of(event: bytes) -> bytes:
    return b"".join(line[6:] for line in event.split(b"\n") if line.startswith(b"data: "))


def _add(whole: Assembled, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        whole.errors.append(f"{chunk['error'].get('code')}: {chunk['error'].get('message')}")
        return
    whole.ids.add(chunk["id"])
    whole.created.add(chunk["created"])
    if usage := chunk.get("usage"):
        whole.tokens.append((usage["prompt_tokens"], usage["completion_tokens"]))
    for part in chunk["choices"]:
        _add_part(whole.choices.setdefault(part["index"], Choice()), part)


def _add_part(choice: Choice, part: dict[str, Any]) -> None:
    delta = part["delta"]
    choice.roles += "role" in delta
    choice.content += delta.get("content") or ""
    for call in delta.get("tool_calls") or ():
        known = choice.calls.setdefault(call["index"], ["", ""])
        function = call.get("function") or {}
        known[0] += function.get("name") or ""
        known[1] += function.get("arguments") or ""
    if logprobs := part.get("logprobs"):
        choice.logprobs += [item["token"] for item in logprobs.get("content") or ()]
    if reason := part.get("finish_reason"):
        choice.finish_reasons.append(reason)
        choice.stop_reason = part.get("stop_reason")
