"""Money as people write it: 0.15 is 150_000 micro-units."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from inferbus.errors import InvalidRequest

_PER_UNIT = 1_000_000


def micro_units(text: str, *, field: str) -> int:
    """Read an amount.

    Raises:
        InvalidRequest: it is no number, or finer than a millionth.
    """
    try:
        amount = Decimal(text) * _PER_UNIT
        whole = int(amount)
    except (InvalidOperation, ValueError, OverflowError):
        raise InvalidRequest(f"{field} is {text!r}, it must be an amount such as 0.15", param=field) from None
    if whole != amount:
        raise InvalidRequest(f"{field} is {text}, a millionth is the smallest amount", param=field)
    return whole


def money(micro: int) -> str:
    """Write an amount: two digits behind the point, more where there is more."""
    text = f"{Decimal(micro) / _PER_UNIT:.6f}"
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"
