"""The `x-ratelimit-*` headers, as OpenAI's clients know them: of requests and of tokens, the tightest of all scopes."""

from __future__ import annotations

import msgspec

REQUESTS, TOKENS = "requests", "tokens"


class Standing(msgspec.Struct, frozen=True):
    """How one limit stands: what of, the limit, about how much of it is left, seconds until its window ends."""

    what: str
    limit: int
    remaining: int
    reset_s: float


def rate_headers(standings: list[Standing]) -> tuple[tuple[str, str], ...]:
    """Write the headers. What remains is this process's best knowledge: shares of others may be as much as their holders
    have not used yet."""
    headers: list[tuple[str, str]] = []
    for what in (REQUESTS, TOKENS):
        of_it = [standing for standing in standings if standing.what == what]
        if not of_it:
            continue
        tightest = min(of_it, key=lambda standing: (standing.remaining, standing.limit))
        headers += [
            (f"x-ratelimit-limit-{what}", str(tightest.limit)),
            (f"x-ratelimit-remaining-{what}", str(max(0, tightest.remaining))),
            (f"x-ratelimit-reset-{what}", f"{max(0.0, tightest.reset_s):.1f}s"),
        ]
    return tuple(headers)
