"""Turns: the buckets of one lane share a worker's slots (`fair_share` decides whose turn it is, intakes pull)."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from inferbus import routes
from inferbus.errors import DependencyDown
from inferbus.queue.fair_share import FairShare, Share
from inferbus.queue.slots import Slots

log = structlog.get_logger()


class Bucket(Protocol):
    """What takes turns: an intake."""

    share: Share
    rows_each: int
    """Rows that a message of it had last: what one that is pulled may need."""

    @property
    def can_order(self) -> bool: ...

    @property
    def held(self) -> int:
        """Slots that what runs of it holds, or waits for."""
        ...

    def order(self, count: int, *, standing: bool) -> None:
        """Send a pull for `count` messages; raises DependencyDown where the bus is away."""


class Turns:
    """Deals the free slots of one lane whenever one came free, a message came, or a pull ended; once per pass of the
    event loop, however many of those there were."""

    def __init__(self, slots: Slots, lane: str) -> None:
        self._slots = slots
        self._lane = lane
        self._fair = FairShare()
        self._buckets: list[Bucket] = []
        self._shares: list[Share] = []
        self._is_dealing = False
        self._forget = slots.register(self.wake)

    def __len__(self) -> int:
        return len(self._buckets)

    def add(self, bucket: Bucket) -> None:
        self._buckets.append(bucket)
        self._shares.append(bucket.share)

    def close(self) -> None:
        """Be told of free slots no more."""
        self._forget()

    def weigh(self, weights: list[int]) -> None:
        """Set the buckets' weights, by number; 1 for those not named."""
        for number, share in enumerate(self._shares):
            share.weight = weights[number] if number < len(weights) else 1

    def charge(self, share: Share, rows: int = 1) -> None:
        """Count a delivery of so many rows, before its share is told what is left behind it."""
        self._fair.charge(self._shares, share, rows)

    def wake(self) -> None:
        if not self._is_dealing:
            self._is_dealing = True
            asyncio.get_running_loop().call_soon(self._deal)

    @property
    def window(self) -> int:
        """Give the most a bucket may have on order that does not wait: together at most a quarter of the slots, or one
        each. One in the batch lane, as ever."""
        return 1 if self._lane == routes.BATCH else max(1, self._slots.total // (4 * len(self._buckets)))

    def _deal(self) -> None:
        self._is_dealing = False
        free = self._slots.free_for(self._lane, routes.BATCH)
        if free <= 0:
            return
        able = [bucket for bucket in self._buckets if bucket.can_order]
        free = -(-free // max((bucket.rows_each for bucket in able if bucket.share.pending), default=1))
        for bucket in able:
            bucket.share.running = bucket.held
        try:
            for order in self._fair.deal([bucket.share for bucket in able], free, self.window):
                able[order.index].order(order.count, standing=order.standing)
        except DependencyDown as exc:
            log.debug("turns_wait_for_bus", error=exc.message)
