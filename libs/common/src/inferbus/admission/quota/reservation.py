"""Reservation: what one request has taken of its limits, until it is known what it spent."""

from __future__ import annotations

from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.meter import OF_REQUESTS, Amounts, Meter
from inferbus.admission.quota.settling import charge_of
from inferbus.admission.quota.slots import SlotLease
from inferbus.admission.quota.tokens import Estimate
from inferbus.answers.exchange import Exchange
from inferbus.answers.head_lines import Headers, headers_in
from inferbus.contracts.prices import Price, cost
from inferbus.contracts.step import Usage

Leases = tuple[Lease, ...]
Taken = tuple[int, bool, int, Leases]
"""What is counted (as in `Amounts`), whether it is of days and months, how much of it was taken, of each of which leases."""
OpenReservations = dict["Reservation", float]
"""Open reservations, the oldest first, and when each was made (server time)."""


class Reservation:
    """Settled or refunded once; whatever is said afterwards changes nothing. It lies in the windows it was made in."""

    __slots__ = ("_aged", "_book", "_done", "_price", "_slots", "_taken", "estimate", "head")

    def __init__(
        self, estimate: Estimate | None = None, price: Price | None = None, book: OpenReservations | None = None
    ) -> None:
        """`book`: where it stands while it is open, if it takes from limits of days or months."""
        self.estimate = estimate
        self._price = price
        self._taken: list[Taken] = []
        self._slots: list[SlotLease] = []
        self.head = b""
        """Lines of an HTTP head that say how limits stood when it was made; none where nothing is limited."""
        self._done = self._aged = False
        self._book = book

    @property
    def implied_bound(self) -> int:
        """How much may be generated for each choice of a request that does not say it; 0: it does, or nothing counts it."""
        if self.estimate is None or not self.estimate.implied:
            return 0
        return self.estimate.implied if any(counts != OF_REQUESTS for counts, _, _, _ in self._taken) else 0

    def add(self, meter: Meter, lease: Lease, amount: int) -> None:
        """It has taken so much of a lease."""
        self._taken.append((meter.counts, meter.is_long, amount, (lease,)))
        if meter.is_long:
            lease.out += amount

    def add_taken(self, taken: list[Taken]) -> None:
        """It has taken all this, and the leases know it."""
        self._taken += taken

    def add_slot(self, slots: SlotLease) -> None:
        """It is one of those that are open."""
        self._slots.append(slots)

    def add_slots(self, slots: list[SlotLease]) -> None:
        """It is one of those that are open, by all of these."""
        self._slots += slots

    def settle(self, usage: Usage) -> None:
        """Give back what was reserved and not spent, count what was spent beyond it. The request itself stays counted."""
        if self._done:
            return
        self._done = True
        money = cost(self._price, usage) if self._price is not None else 0
        amounts: Amounts = (0, usage.prompt_tokens + usage.completion_tokens, money)
        for counts, is_long, amount, leases in self._taken:
            if counts == OF_REQUESTS:
                continue
            spent = amounts[counts]
            if is_long:
                out = 0 if self._aged else amount
                for lease in leases:
                    lease.settle(out, amount, spent)
            elif spent > amount:
                for lease in leases:
                    lease.overspend(spent - amount)
            else:
                for lease in leases:
                    lease.put(amount - spent)
        self._leave()

    def refund(self) -> None:
        """Give everything back: the platform did nothing for it."""
        if self._done:
            return
        self._done = True
        for _, is_long, amount, leases in self._taken:
            if is_long:
                self._let_out(amount, leases)
            for lease in leases:
                if not lease.is_lost:
                    lease.put(amount)
        self._leave()

    def age(self) -> None:
        """It is open for long: a record speaks of it no more, so that nobody has to look for its end."""
        for _, is_long, amount, leases in self._taken:
            if is_long:
                self._let_out(amount, leases)
        self._aged = True

    def close(self, exchange: Exchange | None) -> None:
        """Settle by how the request ended; None: it was not accepted."""
        if self._done or self.estimate is None:
            return
        usage = charge_of(exchange, self.estimate) if exchange is not None else None
        if usage is None:
            self.refund()
        else:
            self.settle(usage)

    def headers(self) -> Headers:
        """Give `head` by name."""
        return headers_in(self.head)

    def windows(self) -> list[str]:
        """Name the windows it lies in, as the counters' subjects end."""
        return [lease.subject.rsplit(".", 1)[1] for _, _, _, leases in self._taken for lease in leases]

    def _let_out(self, amount: int, leases: Leases) -> None:
        """Have leases count it as open no more."""
        if not self._aged:
            for lease in leases:
                if not lease.is_lost:
                    lease.out -= amount

    def _leave(self) -> None:
        if self._book is not None:
            self._book.pop(self, None)
        for slots in self._slots:
            slots.put()


UNLIMITED = Reservation()
"""What an identity without limits gets: nothing taken, nothing to settle."""
