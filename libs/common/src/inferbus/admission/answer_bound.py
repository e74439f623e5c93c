"""What bounds an answer in a body, by task: where it is written, and how. Pure.

Who wants a body bounded reads it as strictly (entitlements) or as generously (quota's estimate) as it must; written is a
bound here and nowhere else.
"""

from __future__ import annotations

import msgspec

BOUND_FIELDS = {"chat": ("max_completion_tokens", "max_tokens"), "completions": ("max_tokens",)}
"""The fields that bound an answer, by task, the engine's choice first. What is not here generates nothing."""
COMPLETIONS_DEFAULT = 16
"""The length of a completion that names none, as the API has it."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What `fields_of` raises where a body is no JSON object."""

fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""Read a body's fields, their values as they came; of a field that comes twice the last."""


def with_bound(fields: dict[str, msgspec.Raw], task: str, tokens: int) -> bytes:
    """Write a body anew with a bound on each of its answers. Every other value stays as it came."""
    return msgspec.json.encode(fields | {BOUND_FIELDS[task][0]: msgspec.Raw(b"%d" % tokens)})
