"""Tokens at the door: an upper bound of what a request may cost, before anybody has tokenized it.

Why the prompt's bound is one: a byte-level tokenizer makes at most one token of a byte, and JSON writes a text in at least
as many bytes as it has; so the body's length bounds the text's tokens. A chat template adds a few tokens a message and a
preamble: `_PER_MESSAGE` and `_PREAMBLE` are more than any template of the models we know adds. Token ids take two bytes
each. It is no bound for media: `_PER_MEDIA` is what most models make of a picture. What an engine spends beyond it is
counted at the settling.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

_PER_MESSAGE = 16
_PREAMBLE = 64
_PER_MEDIA = 4096
_ROLE, _MEDIA = b'"role"', (b'"image_url"', b'"input_audio"', b'"video_url"', b'"audio_url"')
_MAX_CHOICES = 128
_MOST = 10**9


class Estimate(msgspec.Struct, frozen=True):
    """At most so many tokens: of the prompt, and of all completions together."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class TokenEstimator(Protocol):
    """Says what a request may cost at most. A tokenizer in the gateway can stand in."""

    def estimate(self, task: str | None, body: bytes) -> Estimate: ...


class _View(msgspec.Struct):
    """The fields that bound what is generated; of any type, since the engine is who refuses them."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None
    best_of: Any = None
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_View).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class BodyEstimator:
    """Bounds by the body alone. `default_completion`: what a request that names no bound may generate."""

    def __init__(self, *, default_completion: int = 4096) -> None:
        self._default = default_completion

    def estimate(self, task: str | None, body: bytes) -> Estimate:
        """Bound a request's tokens. `task` None: as for a completion."""
        prompt = len(body) + _PREAMBLE + _PER_MESSAGE * body.count(_ROLE)
        prompt += _PER_MEDIA * sum(body.count(media) for media in _MEDIA)
        if task == "embeddings":
            return Estimate(prompt, 0)
        try:
            view = _decode(body)
        except msgspec.DecodeError:
            return Estimate(prompt, self._default)  # the engine refuses it
        choices = min(_MAX_CHOICES, max(_count(view.n, 1), _count(view.best_of, 1))) * _prompts(view.prompt)
        each = _count(view.max_completion_tokens, _count(view.max_tokens, self._default))
        return Estimate(prompt, min(_MOST, each * choices))


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _prompts(prompt: msgspec.Raw) -> int:
    """Count the prompts of a completion: a text, a list of texts, a list of token ids, or a list of such lists."""
    if bytes(memoryview(prompt)[:1]) != b"[":
        return 1
    items = _decode_items(prompt)
    return len(items) if items and bytes(memoryview(items[0])[:1]) in (b'"', b"[") else 1
