"""The `prices` bucket: what a model's tokens cost. Money is integers: micro-units of the one currency (1_000_000 = 1.00)."""

from __future__ import annotations

import msgspec

from inferbus.contracts.step import Usage
from inferbus.errors import InvalidRequest

_PER = 1_000_000
MAX_PRICE = 1_000_000 * _PER
"""A million per million tokens: above it somebody has mistaken the unit."""


class Price(msgspec.Struct, frozen=True, kw_only=True, tag="prices.price.v1"):
    """Micro-units per million tokens: of the prompt, of the answer, of the prompt's part found in the prefix cache.

    `cached` None: such tokens cost as much as the rest of the prompt. `version` names these figures for ever.
    """

    input: int
    output: int
    cached: int | None = None
    version: str = ""
    model: str = ""


def cost(price: Price, usage: Usage) -> int:
    """Give what `usage` costs in micro-units, rounded up. `cached_tokens` are part of `prompt_tokens`."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    per_cached = price.input if price.cached is None else price.cached
    total = (usage.prompt_tokens - cached) * price.input + cached * per_cached + usage.completion_tokens * price.output
    return -(-total // _PER)


def check_price(price: Price) -> Price:
    """Refuse figures that nobody can have meant.

    Raises:
        InvalidRequest: the message names the field.
    """
    for field, value in (("input", price.input), ("output", price.output), ("cached", price.cached or 0)):
        if not 0 <= value <= MAX_PRICE:
            raise InvalidRequest(f"{field} is {value}, it must be 0 to {MAX_PRICE} micro-units", param=field)
    return price
