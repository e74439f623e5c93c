"""Shares of a counter: whatever the order of answers, what all holders have never exceeds the limit."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferbus.admission.quota.share import Share

HOLDERS = 4
holder = st.integers(0, HOLDERS - 1)


class Holders(RuleBasedStateMachine):
    """A counter, holders that add to it and hear of it later, holders that die, acknowledgements that are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 100
        self.counter = 0
        self.shares = [Share(self.limit) for _ in range(HOLDERS)]
        self.out = [0] * HOLDERS
        self.asked: list[list[tuple[int, int]]] = [[] for _ in range(HOLDERS)]
        self.to_subtract: list[int] = []
        self.spent_by_the_dead = 0

    @rule(i=holder, need=st.integers(1, 140))
    def add(self, i: int, need: int) -> None:
        asked = self.shares[i].ask(need, HOLDERS)
        self.counter += asked
        self.asked[i].append((asked, self.counter))

    @rule(i=holder, late=st.booleans())
    def hear(self, i: int, late: bool) -> None:
        """Hear the value of the addition, or read the counter after the acknowledgement was lost."""
        if self.asked[i]:
            asked, value = self.asked[i].pop(0)
            back = self.shares[i].granted(asked, self.counter if late else value)
            self.to_subtract.append(back)

    @rule(i=holder, amount=st.integers(1, 140))
    def take(self, i: int, amount: int) -> None:
        if self.shares[i].take(amount):
            self.out[i] += amount

    @rule(i=holder, part=st.integers(1, 100))
    def put(self, i: int, part: int) -> None:
        amount = min(part, self.out[i])
        self.out[i] -= amount
        self.shares[i].put(amount)

    @rule(i=holder)
    def tick(self, i: int) -> None:
        self.to_subtract.append(self.shares[i].tick())

    @rule(counted=st.booleans())
    def subtract(self, counted: bool) -> None:
        """A subtraction arrives, or is lost and never tried again."""
        if self.to_subtract:
            amount = self.to_subtract.pop()
            self.counter -= amount if counted else 0

    @rule(i=holder)
    def die(self, i: int) -> None:
        self.spent_by_the_dead += self.out[i]
        self.shares[i], self.out[i], self.asked[i] = Share(self.limit), 0, []

    @invariant()
    def never_over(self) -> None:
        held = sum(share.free for share in self.shares) + sum(self.out) + self.spent_by_the_dead
        assert held <= self.limit
        assert self.counter >= held


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


def test_grants_shrink_towards_the_end() -> None:
    share, counter, sizes = Share(1000), 0, []
    share.previous = 1000  # it is much in use
    while counter < 1000:
        asked = share.ask(share.free + 1, holders=2)
        counter += asked
        share.granted(asked, counter)
        sizes.append(asked)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (250, 1)


def test_a_grant_follows_the_demand() -> None:
    share = Share(1_000_000)
    assert share.ask(10, holders=1) == 10
    share.granted(10, 10)
    share.take(10)
    assert share.ask(10, holders=1) == 20
    share.tick()
    assert share.ask(1, holders=1) == 20
    share.tick()
    assert share.ask(1, holders=1) == 1


def test_what_is_not_needed_goes_back() -> None:
    share = Share(1000)
    share.granted(500, 500)
    share.take(100)
    assert share.tick() == 200, "twice of what was given out is kept"
    assert share.tick() == 200
    assert (share.free, share.held, share.seen) == (0, 100, 100)


def test_spending_beyond_what_was_taken_is_counted() -> None:
    share = Share(100)
    share.granted(50, 50)
    share.take(30)
    assert share.overspend(25) == 5
    assert (share.free, share.seen, share.remaining) == (0, 55, 45)


def test_a_lower_limit_holds_at_once() -> None:
    share = Share(100)
    share.granted(50, 50)
    share.limit = 40
    assert share.granted(10, 60) == 10
    assert share.remaining == 50, "what it has it may give out"
