"""The `x-ratelimit-*` headers, as OpenAI's clients know them: of requests and of tokens, the tightest of all scopes.

They are written for every request, as lines of an HTTP head: what does not change from one to the next is kept (`Told`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from inferbus.answers.head_lines import Headers, headers_in

REQUESTS, TOKENS = "requests", "tokens"
_LOOK_S = 0.1


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


class Told:
    """What is told of one kind: `what`. The tightest of all scopes is looked for ten times a second, not for every request."""

    __slots__ = ("_after", "_before", "_names", "_one", "_standings", "_until")

    def __init__(self, what: str, standings: Sequence[Standing]) -> None:
        self._names = (f"x-ratelimit-limit-{what}", f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}")
        self._standings = standings
        self._one = standings[0]
        self._before = self._after = b""
        self._until = 0.0

    def head(self, now: float) -> bytes:
        """Write the lines of an HTTP head. What remains is of this moment, all else at most a tenth of a second old."""
        if not self._until - _LOOK_S <= now < self._until:
            self.look(now)
        return b"%s%d%s" % (self._before, max(0, self._one.remaining), self._after)

    def look(self, now: float) -> None:
        """Find the tightest of the limits, and write what is the same for some time."""
        self._one = min(self._standings, key=_tightness)
        limit, remaining, reset = self._names
        tenths = int(self._one.reset_s(now) * 10 + 0.5)
        self._before = f"{limit}: {self._one.limit}\r\n{remaining}: ".encode()
        self._after = f"\r\n{reset}: {tenths // 10}.{tenths % 10}s\r\n".encode()
        self._until = now + _LOOK_S


def told_of(standings: Iterable[Standing]) -> list[Told]:
    """Sort out whose standing is told, under which names."""
    found = list(standings)
    by_what = ((what, [one for one in found if one.what == what]) for what in (REQUESTS, TOKENS))
    return [Told(what, of_it) for what, of_it in by_what if of_it]


def rate_head(told: Iterable[Told], now: float) -> bytes:
    """Write the lines of an HTTP head, each with its end. What remains is this process's best knowledge: shares of others
    may be as much as their holders have not used yet."""
    return b"".join([one.head(now) for one in told])


def rate_headers(told: Sequence[Told], now: float) -> Headers:
    """Give the same by name, for a refusal: what is used up was not a tenth of a second ago."""
    for one in told:
        one.look(now)
    return headers_in(rate_head(told, now))


def _tightness(standing: Standing) -> tuple[int, int]:
    return standing.remaining, standing.limit
