"""Tokens at the door: an upper bound of what a request may cost, before anybody has tokenized it.

Why the prompt's bound is one: a byte-level tokenizer makes at most one token of a byte, so the bytes of what an engine reads
bound its tokens. What it reads is contents and names of messages, prompts, inputs; token ids count as themselves. A chat
template adds a few tokens a message and a preamble: `_PER_MESSAGE` and `_PREAMBLE` are more than any template of the models we
know adds, `_TOOLS` more than they say about tools. Fields of a body that no engine reads a prompt from are left out by name
(`_UNREAD`); whatever else stands in a body is counted as it is written, in JSON, which is never shorter. It is no bound for
media: `_PER_MEDIA` is what most models make of a picture. What an engine spends beyond it is counted at the settling.

What is generated is bounded by what is asked for, read as generously as any engine might: a number in a string, the larger
of two bounds. A chat that names none is bounded here (`bounded_as_reserved`).
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import msgspec

from inferbus.admission.answer_bound import BOUND_FIELDS, COMPLETIONS_DEFAULT, UNREADABLE, fields_of, with_bound
from inferbus.kserve.request import rows_of

_PER_MESSAGE = 16
_PER_PART = 4  # parts of a content are joined by a line's end, or by what a template puts around a text
_PER_PROMPT = 4  # a beginning, an end, and the space some tokenizers put in front
_PREAMBLE = 64
_TOOLS = 256
_PER_MEDIA = 4096
_URL, _AUDIO = b'_url"', b'"input_audio"'  # image_url, video_url, audio_url
_MOST = 10**9
_UNREAD = frozenset((
    "model", "max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "temperature", "top_p", "top_k", "min_p",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "stop",
    "stop_token_ids", "ignore_eos", "stream", "stream_options", "user", "encoding_format", "dimensions",
))  # fmt: skip


class Estimate(msgspec.Struct, frozen=True):
    """At most so many tokens: of the prompt, and of all completions together. `implied`: so many of each completion, since
    the request says nothing; 0 where it does."""

    prompt: int
    completion: int
    implied: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class TokenEstimator(Protocol):
    """Says what a request may cost at most. A tokenizer in the gateway can stand in."""

    def estimate(self, task: str | None, body: bytes, json_bytes: int = 0) -> Estimate: ...


class _Text(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True, gc=False):
    text: str


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    """A message of which everything that is read is known. Another one is counted as it is written."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Text] | None = None
    name: str = ""


Fields = dict[str, msgspec.Raw]
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_prompts = msgspec.json.Decoder(str | list[str | list[int]]).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder(Any).decode


class BodyEstimator:
    """Bounds by the body alone. `default_completion`: what a request that names no bound may generate."""

    def __init__(self, *, default_completion: int = 4096) -> None:
        self._default = default_completion

    def estimate(self, task: str | None, body: bytes, json_bytes: int = 0) -> Estimate:
        """Bound a request's tokens. `task` None: as for a chat. Those of an inference are its rows; `json_bytes` is the length
        of its JSON, 0 where all of the body is."""
        if task == "infer":
            return Estimate(rows_of(body, json_bytes), 0)
        default = 0 if task == "embeddings" else self._default
        try:
            fields = fields_of(body)
            prompt, prompts = _prompt_bound(fields)
            if task == "embeddings":
                return Estimate(prompt, 0)
            each, implied = self._each(task, fields)
            choices = prompts * max(1, _number(fields, "n"), _number(fields, "best_of"))
        except UNREADABLE:
            return Estimate(len(body) + _PREAMBLE, default)  # the engine refuses it
        return Estimate(prompt, min(_MOST, each * choices), implied)

    def _each(self, task: str | None, fields: Fields) -> tuple[int, int]:
        """Give the bound of each choice, and whether it is ours (`implied`)."""
        each = max(_number(fields, "max_completion_tokens"), _number(fields, "max_tokens"))
        if each:
            return each, 0
        if task == "completions" and "max_tokens" not in fields:
            return COMPLETIONS_DEFAULT, 0
        return self._default, self._default


def bounded_as_reserved(task: str | None, body: bytes, tokens: int) -> bytes:
    """Write a body anew, with a bound on what is generated for each choice. What cannot be read stays as it is."""
    task = task or "chat"
    try:
        return with_bound(fields_of(body), task, tokens) if task in BOUND_FIELDS else body
    except UNREADABLE:
        return body


def _prompt_bound(fields: Fields) -> tuple[int, int]:
    """Bound the tokens of all that is read, and count the prompts of a completion."""
    bound, prompts, is_chat = 0, 1, True
    for name, value in fields.items():
        if name in _UNREAD:
            continue
        if name == "messages":
            bound += _messages_bound(value)
        elif name in ("prompt", "input"):
            of_prompts, count = _prompts_bound(value)
            bound += of_prompts
            if name == "prompt":
                prompts = count
            is_chat = is_chat and "messages" in fields
        else:
            bound += _size(value) + (_TOOLS if name in ("tools", "functions") else 0)
    return bound + (_PREAMBLE if is_chat else 0), prompts


def _messages_bound(value: msgspec.Raw) -> int:
    try:
        messages = _decode_messages(value)
    except UNREADABLE:
        written = bytes(value)
        media = written.count(_URL) + written.count(_AUDIO)
        return len(written) + _PER_MESSAGE * _items(value) + _PER_MEDIA * media
    bound = _PER_MESSAGE * len(messages)
    for message in messages:
        content = message.content
        if isinstance(content, str):
            bound += _bytes(content)
        elif content is not None:
            bound += sum([_bytes(part.text) + _PER_PART for part in content])
        if message.name:
            bound += _bytes(message.name)
    return bound


def _prompts_bound(value: msgspec.Raw) -> tuple[int, int]:
    """Bound a text, a list of texts, a list of token ids, or a list of such lists; count them."""
    try:
        found = _decode_prompts(value)
    except UNREADABLE:
        return _ids_bound(value)
    if isinstance(found, str):
        return _bytes(found) + _PER_PROMPT, 1
    sizes = [_bytes(one) if isinstance(one, str) else len(one) for one in found]
    return sum(sizes) + _PER_PROMPT * len(sizes), max(1, len(sizes))


def _ids_bound(value: msgspec.Raw) -> tuple[int, int]:
    try:
        return len(_decode_ids(value)) + _PER_PROMPT, 1
    except UNREADABLE:  # nothing an engine takes
        items = _items(value)
        return _size(value) + _PER_PROMPT * items, items


def _items(value: msgspec.Raw) -> int:
    """Count the items of a list; anything else is one."""
    try:
        return max(1, len(_decode_items(value)))
    except UNREADABLE:
        return 1


def _size(value: msgspec.Raw) -> int:
    return memoryview(value).nbytes


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _number(fields: Fields, name: str) -> int:
    """Read a number as an engine might that takes "5" and 5.0 for 5; 0 where there is none it could take."""
    if name not in fields:
        return 0
    value: object = _decode_value(fields[name])
    if type(value) is int:
        return max(0, value)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return max(0, math.ceil(float(value)))
    except (ValueError, OverflowError):
        return 0
