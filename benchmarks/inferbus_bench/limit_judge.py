"""Was a limit passed? Judged by what workers were given, as the ledger's events tell it. Pure.

A request counts in the window it was reserved in, which no event says; it was stored a moment later, which one does. So a
request stored soon after a window began may belong to the one before. A limit was passed for certain if no way of
assigning such requests keeps it; over intervals of windows that can be looked up exactly (Hall's theorem).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from inferbus.contracts.usage import AMENDED, UsageEvent

WINDOW_S = 60
SLACK_S = 2.0
"""How long before it was stored a request may have been reserved."""
_CLOCK_S = 0.05  # a gateway knows the server's time to half a round trip


class Given(msgspec.Struct, frozen=True):
    """What a worker was given for one request: when it was stored (Unix seconds, server time), its tokens, 1 request."""

    stored_s: float
    tokens: int
    requests: int = 1


class Unused(msgspec.Struct, frozen=True):
    """One whole window of a limit: what was given in it, by the time it was stored."""

    window: int
    given: int
    limit: int

    @property
    def share(self) -> float:
        """The part of the limit that was not used."""
        return max(0.0, 1 - self.given / self.limit)


Amount = Callable[[Given], int]


def window_of(moment_s: float) -> int:
    return int(moment_s // WINDOW_S)


def given_of(events: Iterable[UsageEvent]) -> list[Given]:
    """Read events as what workers were given; tokens that nobody is charged for count, too. What amends another event
    counts where that one does."""
    stored: dict[str, float] = {}
    found, amendments = [], []
    for event in events:
        if event.outcome == AMENDED:
            amendments.append(event)
            continue
        stored[event.request_id] = event.at - event.engine_s - event.queue_s
        found.append(Given(stored[event.request_id], _tokens(event), event.requests))
    found += [Given(stored.get(one.request_id, one.at), _tokens(one), one.requests) for one in amendments]
    return found


def in_windows(given: Iterable[Given], amount: Amount) -> dict[int, int]:
    """Add up by the window a request was stored in."""
    sums: Counter[int] = Counter()
    for one in given:
        sums[window_of(one.stored_s)] += amount(one)
    return dict(sums)


def over(given: Iterable[Given], amount: Amount, limit: int, *, not_before: int = 0, slack_s: float = SLACK_S) -> int:
    """Give by how much a limit was passed for certain, however requests near a window's edge are assigned; 0: it held.

    `not_before`: the window in which asking began.
    """
    spans: Counter[tuple[int, int]] = Counter()
    for one in given:
        spans[max(not_before, window_of(one.stored_s - slack_s)), window_of(one.stored_s + _CLOCK_S)] += amount(one)
    firsts, lasts = {first for first, _ in spans}, {last for _, last in spans}
    runs = [(first, last) for first in firsts for last in lasts if first <= last]
    return max(0, *(_inside(spans, first, last) - limit * (last - first + 1) for first, last in runs), 0)


def unused(given: Iterable[Given], amount: Amount, limit: int, windows: Sequence[int]) -> list[Unused]:
    """Tell for whole windows how much was given in each."""
    sums = in_windows(given, amount)
    return [Unused(window, sums.get(window, 0), limit) for window in windows]


def _inside(spans: Counter[tuple[int, int]], first: int, last: int) -> int:
    return sum(amount for (begin, end), amount in spans.items() if first <= begin and end <= last)


def _tokens(event: UsageEvent) -> int:
    return event.prompt_tokens + event.completion_tokens + event.wasted_tokens
