"""Share: what one holder has of one counter. Pure; the bus is its caller's business.

The counter's value is the sum of all that was granted. A grant is an addition whose answer is the counter's value: what
lies over the limit is not taken and is subtracted again. Whatever the order of answers, what all holders have never
exceeds the limit: at the moment of an addition everybody else has at most the value before it, and the adder keeps at
most the rest.
"""

from __future__ import annotations

_PARTS = 2  # a grant is this part of what every gateway could have of the rest: grants shrink towards the end
_LOW = 8  # more is asked for when this part is left: a request's time is a few milliseconds, a share's half a second


class Share:
    """One holder's part of a window. `free` can be given out without asking; `seen` is the counter's last known value;
    `held` is all it has been granted and has not returned; `recent` is what was given out since `tick`, `previous` what
    was between the two before. With less than `low` free it is time to ask for more."""

    __slots__ = ("free", "held", "limit", "low", "previous", "recent", "seen")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = 0
        self.held = 0
        self.seen = 0
        self.recent = 0
        self.previous = 0
        self.low = 0

    @property
    def remaining(self) -> int:
        """Estimate what can still be had, here and from the counter."""
        return max(0, self.limit - self.seen) + self.free

    def take(self, amount: int) -> bool:
        """Give out `amount`, if it is here."""
        if amount > self.free:
            return False
        self.free -= amount
        self.recent += amount
        return True

    def put(self, amount: int) -> None:
        """Take back what was given out and not spent."""
        self.free += amount

    def ask(self, need: int, holders: int) -> int:
        """Say how much to add to the counter so that `need` can be given out: a fraction of what is left for each of
        `holders`, but no more than is used up in two ticks, since a crash strands it; at least what is missing."""
        return max(1, need - self.free, self.ahead(holders))

    def ahead(self, holders: int) -> int:
        """Say how much to add before anything is missing; 0 near the limit's end, where the others' need is as good."""
        left = max(0, self.limit - self.seen)
        return min(left // (_PARTS * max(1, holders)), 2 * max(self.recent, self.previous))

    def granted(self, asked: int, value: int) -> int:
        """Take a grant: `value` is the counter's after adding `asked`. Returns what must be subtracted from it again."""
        back = min(asked, max(0, value - self.limit))
        self.free += asked - back
        self.held += asked - back
        self.seen = value - back
        self.low = 0 if back else self.free // _LOW
        return back

    def give_back(self, amount: int) -> int:
        """Part with up to `amount` of what is free; returns how much, to be subtracted from the counter."""
        amount = min(amount, self.free)
        self.free -= amount
        self.held -= amount
        self.seen = max(0, self.seen - amount)
        return amount

    def overspend(self, amount: int) -> int:
        """Cover `amount` that was spent and never given out; returns what must be added to the counter for it."""
        covered = min(amount, self.free)
        self.free -= covered
        self.held += amount - covered
        self.seen += amount - covered
        return amount - covered

    def tick(self) -> int:
        """Part with what was not needed lately: keep twice of what was given out since the last tick. Returns what must be
        subtracted from the counter."""
        keep, self.previous, self.recent = 2 * self.recent, self.recent, 0
        back = self.give_back(max(0, self.free - keep))
        self.low = self.free // _LOW
        return back


def releasable(parting: int, kept: int, recorded: int) -> int:
    """Say how much of `parting` may be subtracted from the counter where `kept` stays and a record may say that `recorded`
    is there: others would give that back if this holder died."""
    return max(0, min(parting, kept + parting - recorded))
