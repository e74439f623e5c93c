"""What may be given back of a dead holder's shares. Pure (docs/adr/0011-quotas.md).

A record says of each counter at most what its holder has in it beyond what was settled when it was written. The requests
that were not settled then are known by their tags, and what they spent by the ledger. So a holder that is dead has in the
counter at least `recorded - spent` that nobody will ever spend, as long as it did not subtract what the record speaks of.
"""

from __future__ import annotations

from collections import Counter

from inferbus import routes
from inferbus.admission.quota.meter import MONEY, TPD
from inferbus.admission.quota.windows import end_of
from inferbus.contracts.outstanding import Outstanding
from inferbus.contracts.usage import UsageEvent
from inferbus.ledger.names import request_of

_ANY_MODEL = "model"
EVERYBODY = "*"


class Unspent:
    """Takes in the events of usage since `record.since`, then says what is left."""

    def __init__(self, holder: str, record: Outstanding) -> None:
        self._holder = holder
        self._record = record
        self._open = frozenset(record.open)
        self._spent: Counter[tuple[str, str]] = Counter()

    @property
    def tenants(self) -> set[str]:
        """Whose events are to be read; `EVERYBODY` where a limit is no tenant's."""
        tenants = {routes.parse_quota(counter).tenant for counter in self._record.shares}
        return {EVERYBODY} if routes.PLATFORM in tenants else tenants

    def concerns(self, name: str) -> bool:
        """Whether an event's name is of a request whose spending was not settled when the record was written."""
        request = request_of(name)
        if request is None or request[0] != self._holder:
            return False
        return request[1] >= self._record.next_tag or request[1] in self._open

    def count(self, event: UsageEvent) -> None:
        """Count an event that concerns it. What the platform wasted counts too, corrections downwards do not, and a model's
        limit is charged whatever model is named: rather too much."""
        tokens = max(0, event.prompt_tokens + event.completion_tokens + event.wasted_tokens)
        money = max(0, event.cost)
        scopes = [(event.tenant, "org"), (routes.PLATFORM, _ANY_MODEL)]
        scopes += [(event.tenant, routes.token_safe(f"key-{event.key_id}"))] if event.key_id else []
        scopes += [(event.tenant, routes.token_safe(f"team-{event.team}"))] if event.team else []
        for tenant, scope in scopes:
            self._spent[tenant, f"{scope}-{TPD}"] += tokens
            self._spent[tenant, f"{scope}-{MONEY}"] += money

    def left(self, now: float) -> dict[str, int]:
        """Say what to subtract from which counter; counters of windows that have ended are left alone."""
        back: dict[str, int] = {}
        for counter, amount in self._record.shares.items():
            subject = routes.parse_quota(counter)
            if end_of(subject.span, subject.window) <= now:
                continue
            scope, kind = subject.what.rsplit("-", 1)
            if subject.tenant == routes.PLATFORM:
                scope = _ANY_MODEL
            left = amount - self._spent[subject.tenant, f"{scope}-{kind}"]
            if left > 0:
                back[counter] = left
        return back
