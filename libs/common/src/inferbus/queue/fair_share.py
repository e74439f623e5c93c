"""Fair shares: which bucket of a lane gets the next free slot. Pure: no bus, no clock but its own.

A free slot goes to the bucket that holds the fewest for its weight, so that occupancy is shared and not turns: long
requests do not crowd out short ones, and whoever was away has its part back at once. Among equals (all that hold less than
their weight are equals: there may be fewer slots than weights) the order is deficit round robin's with a cost of one per
request, by virtual clocks: a message advances its bucket's by 1/weight, and the earliest goes first.

Who waits is known from what every delivery says is left behind it. A bucket of which nothing is known to wait gets a
*standing* order, which reserves nothing: the slots it might need go to those that wait. So what is on order in all may
exceed the free slots by `window` for every other bucket. What comes that way counts against the bucket's later turns.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

MAX_WEIGHT = 100
_MAX_LEAD = 2

Turn = tuple[int, float]


class Share:
    """One bucket's part: `weight`, `pending` messages known to wait, `on_order` of those asked for, `running` slots held."""

    __slots__ = ("clock", "is_standing", "on_order", "pending", "running", "weight")

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        self.pending = 0
        self.running = 0
        self.on_order = 0
        self.is_standing = False
        self.clock = 0.0

    def ordered(self, count: int, *, standing: bool) -> None:
        """Note a pull that was sent."""
        self.on_order += count
        self.is_standing = standing

    def turn(self, more: int = 0) -> Turn:
        """Give the turn after those on order and `more`: times its weight in slots held, then the clock. Least is first."""
        ahead = self.on_order + more
        return ((self.running + ahead) // self.weight, self.clock + ahead / self.weight)


class Order(msgspec.Struct, frozen=True):
    """Pull `count` messages for the share at `index`. `standing`: wait for them; otherwise take what is there."""

    index: int
    count: int
    standing: bool


class FairShare:
    """Deals free slots to shares, and keeps what the deliveries cost them."""

    def __init__(self) -> None:
        self._clock = 0.0

    def deal(self, shares: Sequence[Share], free: int, window: int) -> list[Order]:
        """Say what to order for `free` slots; standing orders first, since theirs is the earlier turn.

        A bucket that does not wait gets its standing order of at most `window` when its turn has come: one that was
        just served ahead of its weight may have a message again, and must not be served by never seeming to wait. A
        standing order is a bucket's only one: what the server answers to another would not tell which of them ended.
        """
        if free <= 0:
            return []
        waiting = [share for share in shares if share.pending > 0]
        turns = [share.turn() for share in waiting]
        first = min(turns, default=None)
        if turns:
            _bound_leads(shares, min(clock for _, clock in turns))
        orders = []
        for index, share in enumerate(shares):
            if share.pending <= 0 and not share.on_order and (first is None or share.turn() <= first):
                orders.append(Order(index, min(free, window), standing=True))
        room = free - sum(share.on_order for share in waiting)
        return orders + _by_turns(shares, room)

    def charge(self, shares: Sequence[Share], share: Share, cost: int = 1) -> None:
        """Count one delivery, of `cost` requests; call it while `pending` is what it was before. A bucket that did not wait begins where
        the others are: having been away is no credit."""
        if share.pending <= 0:
            others = (other.clock for other in shares if other.pending > 0 and other is not share)
            share.clock = max(share.clock, min(others, default=self._clock))
        self._clock = max(self._clock, share.clock)
        share.clock += cost / share.weight


def _bound_leads(shares: Sequence[Share], least: float) -> None:
    """Forget what is more than a few turns' lead: with short requests a bucket takes many turns in few slots, and must not
    be kept waiting for all of them when it comes again."""
    for share in shares:
        share.clock = min(share.clock, least + _MAX_LEAD / share.weight)


def _by_turns(shares: Sequence[Share], room: int) -> list[Order]:
    """Give `room` slots to those that wait, each to the one whose turn is earliest."""
    turns = [
        (share.turn(), index)
        for index, share in enumerate(shares)
        if share.pending > share.on_order and not (share.is_standing and share.on_order)
    ]
    heapq.heapify(turns)
    counts: dict[int, int] = {}
    while room > 0 and turns:
        _, index = turns[0]
        share = shares[index]
        counts[index] = counts.get(index, 0) + 1
        room -= 1
        if share.pending > share.on_order + counts[index]:
            heapq.heapreplace(turns, (share.turn(counts[index]), index))
        else:
            heapq.heappop(turns)
    return [Order(index, count, standing=False) for index, count in counts.items()]
