"""Fair shares, played against queues of a pretended server: shares, turns, nothing idle, nothing starved."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from inferbus.queue.fair_share import FairShare, Order, Share

WEIGHTS = st.lists(st.integers(1, 100), min_size=2, max_size=8)


class Pretended:
    """A lane of a worker and the server's queues. Orders are filled in the order sent; standing ones wait."""

    def __init__(self, weights: list[int], total: int, window: int = 1) -> None:
        self.fair = FairShare()
        self.shares = [Share(weight) for weight in weights]
        self.queued = [0] * len(weights)
        self.total = total
        self.window = window
        self.running: deque[int] = deque()
        self.taken: list[int] = []
        self.most = 0

    def arrive(self, bucket: int, count: int = 1) -> None:
        self.queued[bucket] += count
        while self.queued[bucket] and self.shares[bucket].on_order:  # a standing order is there already
            self._deliver(bucket)

    def pull(self) -> None:
        """Deal until there is nothing to send any more."""
        while orders := self.fair.deal(self.shares, max(0, self.total - len(self.running)), self.window):
            for order in orders:
                self._fill(order)

    def end(self) -> None:
        """The longest running request ends."""
        self.end_of(self.running[0])

    def end_of(self, bucket: int) -> None:
        """The longest running request of a bucket ends."""
        self.running.remove(bucket)
        self.shares[bucket].running -= 1
        self.pull()

    def _fill(self, order: Order) -> None:
        share = self.shares[order.index]
        share.ordered(order.count, standing=order.standing)
        while self.queued[order.index] and share.on_order:
            self._deliver(order.index)
        if not order.standing and share.on_order:  # 404: others took what was left
            share.on_order = share.pending = 0

    def _deliver(self, bucket: int) -> None:
        share = self.shares[bucket]
        self.queued[bucket] -= 1
        share.on_order -= 1
        self.fair.charge(self.shares, share)
        share.pending = self.queued[bucket]
        share.running += 1
        self.running.append(bucket)
        self.taken.append(bucket)
        self.most = max(self.most, len(self.running))


@settings(deadline=None)
@given(weights=WEIGHTS, total=st.integers(1, 16))
def test_what_always_waits_is_served_by_weight(weights: list[int], total: int) -> None:
    lane = Pretended(weights, total)
    for bucket in range(len(weights)):
        lane.arrive(bucket, 5000)
    lane.pull()
    rounds = 4 * sum(weights)
    while len(lane.taken) < rounds:
        lane.end()
    served = Counter(lane.taken[:rounds])
    for bucket, weight in enumerate(weights):
        assert abs(served[bucket] - rounds * weight / sum(weights)) <= len(weights) + 1


@settings(deadline=None)
@given(weights=WEIGHTS, total=st.integers(1, 16))
def test_nobody_who_waits_is_starved(weights: list[int], total: int) -> None:
    """Between two turns of a bucket lie at most what the weights allow, two of each other bucket, and as many as there are
    slots: those free at the start are dealt in one go, and may end, and be dealt again, in that order."""
    lane = Pretended(weights, total)
    for bucket in range(len(weights)):
        lane.arrive(bucket, 5000)
    lane.pull()
    while len(lane.taken) < total + 3 * sum(weights):
        lane.end()
    for bucket, weight in enumerate(weights):
        turns = [place for place, taken in enumerate(lane.taken) if taken == bucket]
        gap = max(after - before for before, after in itertools.pairwise([0, *turns, len(lane.taken)]))
        assert gap <= sum(weights) / weight + 2 * len(weights) + total


@settings(deadline=None)
@given(
    weights=WEIGHTS, total=st.integers(1, 16), window=st.integers(1, 3), seed=st.integers(0, 2**32),
    steps=st.integers(1, 200),
)  # fmt: skip
def test_no_slot_is_idle_while_anything_waits(
    weights: list[int], total: int, window: int, seed: int, steps: int
) -> None:
    """Whatever comes and ends, also when other workers take what seemed to wait; and the overshoot is bounded."""
    lane, chance = Pretended(weights, total, window), random.Random(seed)
    lane.pull()
    for _ in range(steps):
        bucket = chance.randrange(len(weights))
        what = chance.random()
        if what < 0.5:
            lane.arrive(bucket, chance.randint(1, 5))
            lane.pull()
        elif what < 0.6:
            lane.queued[bucket] = 0  # another worker
        elif lane.running:
            lane.end()
        assert len(lane.running) >= total or not any(lane.queued)
        assert lane.most <= total + len(weights) * window


@settings(deadline=None)
@given(weight=st.integers(2, 100), total=st.integers(1, 8))
def test_a_bucket_that_never_seems_to_wait_has_no_more_than_its_weight(weight: int, total: int) -> None:
    """One message at a time, the next as soon as the last was taken: its deliveries never leave anything behind."""
    lane = Pretended([weight, 1], total)
    lane.arrive(0, 10_000)
    lane.arrive(1)
    lane.pull()
    rounds = 6 * (weight + 1)
    while len(lane.taken) < rounds:
        if not lane.queued[1]:
            lane.arrive(1)
        lane.end()
    assert abs(Counter(lane.taken)[1] - rounds / (weight + 1)) <= 4


def test_having_been_away_is_no_credit() -> None:
    lane = Pretended([1, 1], 1)
    lane.arrive(0, 1000)
    lane.pull()
    for _ in range(200):
        lane.end()
    lane.arrive(1, 100)
    before = len(lane.taken)
    for _ in range(40):
        lane.end()
    assert 18 <= Counter(lane.taken[before:])[1] <= 22


def test_one_alone_has_every_slot() -> None:
    lane = Pretended([1, 50, 1], 8)
    lane.arrive(2, 100)
    lane.pull()
    assert list(lane.running) == [2] * 8
    assert lane.queued[2] == 92


def test_a_small_one_comes_before_a_flood_when_a_slot_is_free() -> None:
    """Both know nothing of the other: the first order of the free slot is of the one that was away."""
    lane = Pretended([1, 1], 2)
    lane.pull()
    lane.arrive(0, 100)
    for _ in range(10):
        lane.end()
    lane.shares[1].on_order = 0  # its standing order ran out while the worker was full
    lane.arrive(1)
    assert lane.queued[1] == 1
    before = len(lane.taken)
    lane.end()
    lane.end()
    assert 1 in lane.taken[before : before + 2]


@given(total=st.integers(4, 16).map(lambda n: n - n % 2), seed=st.integers(0, 2**32))
def test_long_requests_do_not_crowd_out_short_ones(total: int, seed: int) -> None:
    """Bucket 1 ends nine requests for each of bucket 0's, and still has its half of the slots."""
    lane, chance = Pretended([1, 1], total), random.Random(seed)
    lane.arrive(0, 10_000)
    lane.pull()
    lane.arrive(1, 10_000)
    held = 0
    for step in range(500):
        wanted = 1 if chance.random() < 0.9 else 0
        lane.end_of(wanted if wanted in lane.running else 1 - wanted)
        if step >= 250:
            held += lane.running.count(1)
    assert abs(held / 250 - total / 2) <= 1.5


def test_who_had_many_short_turns_is_not_kept_waiting_for_them() -> None:
    lane = Pretended([1, 1], 2)
    lane.arrive(0, 10_000)
    lane.arrive(1, 500)
    lane.pull()
    while lane.queued[1]:
        lane.end_of(1 if 1 in lane.running else 0)
    while 1 in lane.running:
        lane.end_of(1)
    lane.arrive(1, 1)
    for _ in range(4):
        lane.end_of(0)
    assert lane.queued[1] == 0


def test_who_comes_back_has_its_half_at_once() -> None:
    lane = Pretended([1, 1], 8)
    lane.arrive(0, 1000)
    lane.pull()
    lane.arrive(1, 4)
    before = len(lane.taken)
    for _ in range(5):
        lane.end()
    assert Counter(lane.taken[before - 1 :])[1] == 4, "all four before another of the flood but one"
