"""The `x-ratelimit-*` headers, as OpenAI's clients know them: of requests and of tokens, the tightest of all scopes.

They are written for every request: what does not change from one to the next is prepared once (`told_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

REQUESTS, TOKENS = "requests", "tokens"
Names = tuple[str, str, str]
Headers = tuple[tuple[str, str], ...]


class Standing(Protocol):
    """How one limit stands: `what` it is of ("" for what is not told), the limit, about how much of it is left, and
    seconds until its window ends."""

    @property
    def what(self) -> str: ...

    @property
    def limit(self) -> int: ...

    @property
    def remaining(self) -> int: ...

    def reset_s(self, now: float) -> float: ...


Told = list[tuple[Names, Sequence[Standing]]]


def told_of(standings: Iterable[Standing]) -> Told:
    """Sort out whose standing is told, under which names."""
    found = list(standings)
    by_what = ((what, [one for one in found if one.what == what]) for what in (REQUESTS, TOKENS))
    return [(_names_of(what), of_it) for what, of_it in by_what if of_it]


def rate_headers(told: Told, now: float) -> Headers:
    """Write the headers. What remains is this process's best knowledge: shares of others may be as much as their holders
    have not used yet."""
    headers: list[tuple[str, str]] = []
    for (limit, remaining, reset), standings in told:
        one, left = standings[0], standings[0].remaining
        for other in standings[1:]:
            others = other.remaining
            if others < left or (others == left and other.limit < one.limit):
                one, left = other, others
        tenths = int(one.reset_s(now) * 10 + 0.5)
        headers.append((limit, str(one.limit)))
        headers.append((remaining, str(max(0, left))))
        headers.append((reset, f"{tenths // 10}.{tenths % 10}s"))  # a float takes several times as long to write
    return tuple(headers)


def _names_of(what: str) -> Names:
    return f"x-ratelimit-limit-{what}", f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}"
