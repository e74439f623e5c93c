"""What a client's body may say to an engine: the guard before any adapter sees it.

Fields that steer vLLM from the inside are taken out without a word (a client library may send them by habit),
amounts that cost the neighbours are capped, and URLs that would make the worker fetch something are refused.
Wrong types of everything else are vLLM's to report; only numbers capped here must be numbers, because vLLM would
also take them as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from inferbus.errors import InvalidRequest
from inferbus_llm_worker.domain.media_urls import check_media_urls

_INTERNAL_FIELDS = (
    "kv_transfer_params",
    "ec_transfer_params",
    "data_parallel_rank",
    "request_id",
    "priority",
)
"""Names of vLLM's request models that belong to the platform: P/D transfer, routing, ids, scheduling."""

_INTERNAL_XARGS = ("kv_transfer_params", "ec_transfer_params")
_RESUME_PREFIX = "resume_"


class BodyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Caps on one request. `media_hosts` are the host names remote media may come from."""

    max_n: int = 16
    max_logprobs: int = 20
    max_grammar_bytes: int = 64 * 1024
    max_inputs: int = 2048
    media_hosts: frozenset[str] = frozenset()


def decode_body(body: bytes) -> dict[str, Any]:
    """Decode a client's JSON body.

    Raises:
        InvalidRequest: not JSON, or not an object.
    """
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc
    if not isinstance(decoded, dict):
        raise InvalidRequest("the body must be a JSON object")
    return decoded


def apply_policy(body: dict[str, Any], limits: BodyLimits) -> bool:
    """Check `body` and take internal fields out of it, in place; says whether it was changed.

    Raises:
        InvalidRequest: a value is over its cap or a media URL is not allowed; `param` names the field.
    """
    _check_amounts(body, limits)
    _check_grammars(body, limits.max_grammar_bytes)
    check_media_urls(body, limits.media_hosts)
    return _strip_internal(body)


def take_room(body: dict[str, Any], bound: int, room: int) -> bool:
    """Lower the length that the platform wrote into `body` to the `room` an engine has, in place; says whether it did.

    A client's own length over it is for the engine to refuse.
    """
    if bound <= room:
        return False
    names = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) == bound]
    for name in names:
        body[name] = room
    return bool(names)


def _strip_internal(body: dict[str, Any]) -> bool:
    found = [name for name in _INTERNAL_FIELDS if name in body]
    for name in found:
        del body[name]
    xargs = body.get("vllm_xargs")
    if not isinstance(xargs, dict):
        return bool(found)
    inside = [key for key in xargs if key.startswith(_RESUME_PREFIX) or key in _INTERNAL_XARGS]
    for key in inside:
        del xargs[key]
    return bool(found or inside)


def _check_amounts(body: dict[str, Any], limits: BodyLimits) -> None:
    for field in ("n", "best_of"):
        _check_count(body.get(field), 1, limits.max_n, field)
    for field in ("logprobs", "top_logprobs", "prompt_logprobs"):
        value = body.get(field)
        if not isinstance(value, bool):  # chat's `logprobs` is a switch, the completions' one a number
            _check_count(value, 0, limits.max_logprobs, field)
    chosen = body.get("logprob_token_ids")
    if isinstance(chosen, list) and len(chosen) > limits.max_logprobs:
        raise InvalidRequest(
            f"logprob_token_ids has {len(chosen)} entries, the limit is {limits.max_logprobs}",
            param="logprob_token_ids",
        )
    for field in ("prompt", "input", "documents", "queries", "text_1", "text_2"):
        value = body.get(field)
        if isinstance(value, list) and len(value) > limits.max_inputs and not isinstance(value[0], int):
            raise InvalidRequest(f"{field} has {len(value)} entries, the limit is {limits.max_inputs}", param=field)


def _check_count(value: object, least: int, most: int, field: str) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{field} must be an integer", param=field)
    if not least <= value <= most:
        raise InvalidRequest(f"{field} must be between {least} and {most}, got {value}", param=field)


def _check_grammars(body: dict[str, Any], max_bytes: int) -> None:
    for field, grammar in _grammars(body):
        # A grammar is compiled by the engine process, for everybody's time.
        size = len(grammar.encode(errors="replace")) if isinstance(grammar, str) else len(msgspec.json.encode(grammar))
        if size > max_bytes:
            raise InvalidRequest(f"{field} has {size} bytes, the limit is {max_bytes}", param=field)


def _grammars(body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give every part of a body that becomes a grammar, with the name of its field."""
    for field in ("response_format", "structured_outputs"):
        if body.get(field) is not None:
            yield field, body[field]
    for outer in ("text", "output_config"):  # /v1/responses and /v1/messages
        holder = body.get(outer)
        if isinstance(holder, dict) and holder.get("format") is not None:
            yield f"{outer}.format", holder["format"]
    tools = body.get("tools")
    if not isinstance(tools, list):
        return
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            continue
        function = tool.get("function")
        holder = function if isinstance(function, dict) else tool
        for key in ("parameters", "input_schema", "format"):
            if holder.get(key) is not None:
                yield f"tools[{index}].{key}", holder[key]
