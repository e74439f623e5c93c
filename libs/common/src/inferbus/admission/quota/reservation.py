"""Reservation: what one request has taken of its limits, until it is known what it spent."""

from __future__ import annotations

from inferbus.admission.quota.headers import rate_headers
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.meter import MONEY, RPM, Meter
from inferbus.admission.quota.settling import charge_of
from inferbus.admission.quota.slots import SlotLease
from inferbus.admission.quota.tokens import Estimate
from inferbus.admission.quota.windows import MINUTE
from inferbus.answers.exchange import Exchange
from inferbus.contracts.prices import Price, cost
from inferbus.contracts.step import Usage


class Reservation:
    """Settled or refunded once; whatever is said afterwards changes nothing. It lies in the windows it was made in."""

    __slots__ = ("_done", "_headers", "_price", "_slots", "_taken", "estimate")

    def __init__(self, estimate: Estimate | None = None, price: Price | None = None) -> None:
        self.estimate = estimate
        self._price = price
        self._taken: list[tuple[Meter, Lease, int]] = []
        self._slots: list[SlotLease] = []
        self._headers: tuple[tuple[str, str], ...] = ()
        self._done = False

    @property
    def implied_bound(self) -> int:
        """How much may be generated for each choice of a request that does not say it; 0: it does, or nothing counts it."""
        if self.estimate is None or not self.estimate.implied:
            return 0
        return self.estimate.implied if any(meter.kind.name != RPM for meter, _, _ in self._taken) else 0

    def add(self, meter: Meter, lease: Lease, amount: int) -> None:
        self._taken.append((meter, lease, amount))

    def add_slot(self, slots: SlotLease) -> None:
        self._slots.append(slots)

    def settle(self, usage: Usage) -> None:
        """Give back what was reserved and not spent, count what was spent beyond it. The request itself stays counted."""
        if self._done:
            return
        self._done = True
        for meter, lease, amount in self._taken:
            if meter.kind.name == RPM:
                continue
            spent = self._spent(meter, usage)
            if spent < amount:
                lease.put(amount - spent)
            elif spent > amount:
                lease.overspend(spent - amount)
            if meter.kind.span != MINUTE:
                lease.note_spent(spent)
        self._leave()

    def refund(self) -> None:
        """Give everything back: the platform did nothing for it."""
        if self._done:
            return
        self._done = True
        for _, lease, amount in self._taken:
            lease.put(amount)
        self._leave()

    def close(self, exchange: Exchange) -> None:
        """Settle by how the request ended."""
        if self._done or self.estimate is None:
            return
        usage = charge_of(exchange, self.estimate)
        if usage is None:
            self.refund()
        else:
            self.settle(usage)

    def note_standing(self, now: float) -> None:
        """Fix what `headers` says."""
        self._headers = rate_headers([meter.standing(now) for meter, _, _ in self._taken if meter.kind.what])

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Give the `x-ratelimit-*` headers, as it was when the reservation was made; none where nothing is limited."""
        return self._headers

    def windows(self) -> list[str]:
        """Name the windows it lies in, as the counters' subjects end."""
        return [lease.subject.rsplit(".", 1)[1] for _, lease, _ in self._taken]

    def _spent(self, meter: Meter, usage: Usage) -> int:
        if meter.kind.name == MONEY:
            return cost(self._price, usage) if self._price is not None else 0
        return usage.prompt_tokens + usage.completion_tokens

    def _leave(self) -> None:
        for slots in self._slots:
            slots.put()


UNLIMITED = Reservation()
"""What an identity without limits gets: nothing taken, nothing to settle."""
