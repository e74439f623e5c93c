"""Plan: all limits one request falls under, and the quick way through them: where each has enough at hand, nobody is asked.

It runs once per request over every limit there is, so it does by hand what `Lease` would do in a call of its own each.
"""

from __future__ import annotations

from itertools import groupby

from inferbus.admission.quota.headers import told_of
from inferbus.admission.quota.meter import OF_MONEY, Amounts, Meter, Scope
from inferbus.admission.quota.reservation import Leases, Taken
from inferbus.admission.quota.slots import SlotLease


class Plan:
    """`meters` in the order in which they are asked where something is missing, `slots` after them."""

    __slots__ = ("_groups", "_sorted", "_until", "has_price", "is_long", "meters", "slots", "told")

    def __init__(self, meters: list[Meter], slots: list[tuple[Scope, SlotLease]]) -> None:
        self.meters = meters
        self.slots = slots
        self.is_long = any(meter.is_long for meter in meters)
        self.has_price = any(meter.counts == OF_MONEY for meter in meters)
        self.told = told_of(meters)
        self._sorted = sorted(meters, key=_group)
        self._groups: list[tuple[int, bool, Leases]] = []
        self._until = 0.0

    def try_take(self, amounts: Amounts, now: float) -> list[Taken] | None:
        """Take from every limit at once. None, and nothing is taken: one has too little at hand, or others wait there."""
        if now >= self._until:
            self._look(now)
        for counts, _, leases in self._groups:
            amount = amounts[counts]
            for lease in leases:
                if amount > lease.share.free or lease.waiters or lease.is_lost:
                    self._until = 0.0  # a lease that was lost has been replaced
                    return None
        taken: list[Taken] = []
        for counts, is_long, leases in self._groups:
            amount = amounts[counts]
            for lease in leases:
                share = lease.share
                share.free -= amount
                share.recent += amount
                if is_long:
                    lease.out += amount
                if share.free < share.low:
                    lease.ask_ahead()
            taken.append((counts, is_long, amount, leases))
        return taken

    def try_take_slots(self, now: float) -> list[SlotLease] | None:
        """Take a slot of every limit of open requests. None, and nothing is taken: one has none left here."""
        taken: list[SlotLease] = []
        for _, slots in self.slots:
            if not slots.is_kept or not slots.try_take(now):
                for one in taken:
                    one.put()
                return None
            taken.append(slots)
        return taken

    def _look(self, now: float) -> None:
        """Find the leases of the windows `now` lies in, and when the first of these ends."""
        by_group = groupby(self._sorted, _group)
        self._groups = [(*group, tuple(meter.at(now) for meter in meters)) for group, meters in by_group]
        self._until = min((now + meter.reset_s(now) for meter in self.meters), default=now)


def _group(meter: Meter) -> tuple[int, bool]:
    return meter.counts, meter.is_long
