"""Meter: one limit of one scope, through all its windows. It makes a lease for each window when it is first needed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from inferbus import routes
from inferbus.admission.quota.caller import NOBODY, Caller
from inferbus.admission.quota.counters import Counters
from inferbus.admission.quota.headers import REQUESTS, TOKENS
from inferbus.admission.quota.lease import Lease
from inferbus.admission.quota.windows import DAY, MINUTE, MONTH, end_of, window_of

RPM, TPM, CONCURRENT, TPD, MONEY = "rpm", "tpm", "concurrent", "tpd", "money"
PLATFORM = "PLATFORM"
"""Stands in the tenant's place in what belongs to no tenant: a model's limits."""


class Kind(msgspec.Struct, frozen=True):
    """A kind of limit: which field it is, its window, and how a refusal speaks of it."""

    name: str
    field: str
    span: str
    words: str
    what: str = ""


COUNTED = (
    Kind(RPM, "requests_per_minute", MINUTE, "requests per minute", REQUESTS),
    Kind(TPM, "tokens_per_minute", MINUTE, "tokens per minute", TOKENS),
    Kind(TPD, "tokens_per_day", DAY, "tokens per day"),
    Kind(MONEY, "money_per_month", MONTH, "micro-units of money per month"),
)
OF_REQUESTS, OF_TOKENS, OF_MONEY = range(3)
COUNTS = {RPM: OF_REQUESTS, TPM: OF_TOKENS, TPD: OF_TOKENS, MONEY: OF_MONEY}
"""Where in a request's amounts (`Amounts`) what a kind counts is found."""
Amounts = tuple[int, int, int]
CONCURRENT_WORDS = "requests open at once"


class Scope(msgspec.Struct, frozen=True):
    """Whose limits: `key` is their name in the bucket, `label` how a refusal speaks of it, `token` its part in subjects."""

    key: str
    label: str
    tenant: str
    token: str

    @property
    def kind(self) -> str:
        """What it is: key, team, org or model."""
        return self.key.split(".", 1)[0]


class Meter:
    """Counts one kind for one scope."""

    __slots__ = (
        "_caller", "_counters", "_ends", "_holders", "_look_after", "_window", "counts", "is_long", "kind", "lease", "limit",
        "scope",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        kind: Kind,
        limit: int,
        counters: Counters,
        holders: Callable[[], int],
        look_after: Callable[[Lease, Meter], None],
        now: float,
        caller: Caller = NOBODY,
    ) -> None:
        self.scope = scope
        self.kind = kind
        self.is_long = kind.span != MINUTE
        self.counts = COUNTS[kind.name]
        self.limit = limit
        self._counters = counters
        self._holders = holders
        self._look_after = look_after
        self._caller = caller
        self._window = window_of(kind.span, now)
        self._ends = end_of(kind.span, self._window)
        self.lease = self._make()

    def at(self, now: float) -> Lease:
        """Give the lease of the window `now` lies in. Whoever looked at the clock a moment ago does not bring the last one
        back."""
        if now >= self._ends:
            self._window = window_of(self.kind.span, now)
            self._ends = end_of(self.kind.span, self._window)
            self.lease = self._make()
        return self.lease

    @property
    def window(self) -> int:
        return self._window

    def set_limit(self, limit: int) -> None:
        self.limit = self.lease.share.limit = limit
        self.lease.forget_refusal()

    def reset_s(self, now: float) -> float:
        """Seconds until the window ends."""
        left = self._ends - now
        return left if left > 0 else 0.0

    @property
    def what(self) -> str:
        return self.kind.what

    @property
    def remaining(self) -> int:
        """About how much of it is left, here and at the counter."""
        share = self.lease.share
        left = self.limit - share.seen
        return share.free + left if left > 0 else share.free

    def begin_anew(self, lease: Lease) -> None:
        """Have another lease of the window, if this is still the one."""
        if lease is self.lease:
            self.lease = self._make()

    def is_over(self, lease: Lease, now: float) -> bool:
        """Whether a lease of this meter is of a window that has ended."""
        return lease is not self.lease or now >= self._ends

    def _make(self) -> Lease:
        subject = routes.quota(self.kind.span, self.scope.tenant, f"{self.scope.token}-{self.kind.name}", self._window)
        return Lease(
            self._counters,
            subject,
            self.limit,
            self._holders,
            lambda lease: self._look_after(lease, self),
            self._caller,
        )
