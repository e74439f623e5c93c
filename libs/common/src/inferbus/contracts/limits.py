"""The `limits` bucket: how much a key, a team, an organisation may use, and how much of a model is used in all."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inferbus.errors import InvalidRequest

LIMIT_SCOPES = ("key", "team", "org", "model")
MAX_LIMIT = 10**15
"""More is a slip of the keyboard: no window can hold it, and sums of it would leave 64 bits."""


class LimitSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one scope; 0 means none.

    Requests and tokens (input and output) per minute, requests open at once, tokens per day, and money per month in
    micro-units of the platform's one currency (1_000_000 is 1.00).
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent: int = 0
    tokens_per_day: int = 0
    money_per_month: int = 0


def limits_from(obj: object) -> LimitSet:
    """Check what somebody wants as limits.

    Raises:
        InvalidRequest: it is no object, a field is unknown, no whole number, negative, or over `MAX_LIMIT`; `param`
            names the field.
    """
    if not isinstance(obj, Mapping):
        raise InvalidRequest("limits are an object of whole numbers", param="limits")
    fields = LimitSet.__struct_fields__
    for name, value in obj.items():
        if name not in fields:
            raise InvalidRequest(f"{name!r} is no limit; there are: {', '.join(fields)}", param=str(name))
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(f"{name} is a whole number, 0 for no limit", param=name)
        if not 0 <= value <= MAX_LIMIT:
            raise InvalidRequest(f"{name} is {value}: use 0 (no limit) to {MAX_LIMIT}", param=name)
    return LimitSet(**obj)


def limit_key(scope: str, *parts: str) -> str:
    """Name limits in the bucket: `key.<key id>`, `team.<tenant>.<team>`, `org.<tenant>`, `model.<token-safe model>`.

    Raises:
        InvalidRequest: an unknown scope, or too many or too few parts; `param` is `scope`.
    """
    if scope not in LIMIT_SCOPES or len(parts) != (2 if scope == "team" else 1):
        raise InvalidRequest(
            f"limits are of {', '.join(LIMIT_SCOPES)} (a team is named with its tenant)", param="scope"
        )
    return ".".join((scope, *parts))
