"""Tokens at the door: an upper bound of what a request may cost, before anybody has tokenized it.

Why the prompt's bound is one: a byte-level tokenizer makes at most one token of a byte, and JSON writes a text in at least
as many bytes as it has; so the body's length bounds the text's tokens. A chat template adds a few tokens a message and a
preamble: `_PER_MESSAGE` and `_PREAMBLE` are more than any template of the models we know adds. Token ids take two bytes
each. It is no bound for media: `_PER_MEDIA` is what most models make of a picture. What an engine spends beyond it is
counted at the settling.

What is generated is bounded by what is asked for, read as generously as any engine might: a number in a string, the larger
of two bounds. A chat that names none is bounded here (`bounded_as_reserved`).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec

from inferbus.admission.answer_bound import BOUND_FIELDS, COMPLETIONS_DEFAULT, UNREADABLE, fields_of, with_bound
from inferbus.kserve.request import rows_of

_PER_MESSAGE = 16
_PREAMBLE = 64
_PER_MEDIA = 4096
_ROLE, _URL, _AUDIO = b'"role"', b'_url"', b'"input_audio"'  # image_url, video_url, audio_url
_MOST = 10**9


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


class _View(msgspec.Struct):
    """The fields that bound what is generated; of any type, since the engine is who refuses them."""

    max_tokens: Any = msgspec.UNSET
    max_completion_tokens: Any = msgspec.UNSET
    n: Any = None
    best_of: Any = None
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_View).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class BodyEstimator:
    """Bounds by the body alone. `default_completion`: what a request that names no bound may generate."""

    def __init__(self, *, default_completion: int = 4096) -> None:
        self._default = default_completion

    def estimate(self, task: str | None, body: bytes, json_bytes: int = 0) -> Estimate:
        """Bound a request's tokens. `task` None: as for a chat. Those of an inference are its rows; `json_bytes` is the length
        of its JSON, 0 where all of the body is."""
        if task == "infer":
            return Estimate(rows_of(body, json_bytes), 0)
        prompt = len(body) + _PREAMBLE + _PER_MESSAGE * body.count(_ROLE)
        prompt += _PER_MEDIA * (body.count(_URL) + body.count(_AUDIO))
        if task == "embeddings":
            return Estimate(prompt, 0)
        try:
            view = _decode(body)
        except UNREADABLE:
            return Estimate(prompt, self._default)  # the engine refuses it
        choices = _prompts(view.prompt) if view.prompt else 1
        if view.n is not None or view.best_of is not None:
            choices *= max(1, _number(view.n), _number(view.best_of))
        each, implied = max(_number(view.max_completion_tokens), _number(view.max_tokens)), 0
        if not each and task == "completions" and view.max_tokens is msgspec.UNSET:
            each = COMPLETIONS_DEFAULT
        elif not each:
            each = implied = self._default
        return Estimate(prompt, min(_MOST, each * choices), implied)


def bounded_as_reserved(task: str | None, body: bytes, tokens: int) -> bytes:
    """Write a body anew, with a bound on what is generated for each choice. What cannot be read stays as it is."""
    task = task or "chat"
    try:
        return with_bound(fields_of(body), task, tokens) if task in BOUND_FIELDS else body
    except UNREADABLE:
        return body


def _number(value: object) -> int:
    """Read a number as an engine might that takes "5" and 5.0 for 5; 0 where there is none it could take."""
    if type(value) is int:
        return max(0, value)
    if value is None or value is msgspec.UNSET or isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return max(0, math.ceil(float(value)))
    except (ValueError, OverflowError):
        return 0


def _prompts(prompt: msgspec.Raw) -> int:
    """Count the prompts of a completion: a text, a list of texts, a list of token ids, or a list of such lists."""
    if bytes(memoryview(prompt)[:1]) != b"[":
        return 1
    items = _decode_items(prompt)
    return len(items) if items and bytes(memoryview(items[0])[:1]) in (b'"', b"[") else 1
