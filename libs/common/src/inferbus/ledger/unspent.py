"""What may be given back of a dead holder's shares. Pure (docs/adr/0011).

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

Spent = Counter[tuple[str, str]]
"""What was spent, by tenant and by what is counted, as in the counters' subjects."""


def count_spent(spent: Spent, event: UsageEvent) -> None:
    """Add an event to what was spent. What the platform wasted counts, corrections downwards do not: rather too much."""
    tokens = max(0, event.prompt_tokens + event.completion_tokens + event.wasted_tokens)
    money = max(0, event.cost)
    wholes = [(event.tenant, "org"), (routes.PLATFORM, "model")]
    wholes += [(event.tenant, routes.token_safe(f"key-{event.key_id}"))] if event.key_id else []
    wholes += [(event.tenant, routes.token_safe(f"team-{event.team}"))] if event.team else []
    for tenant, scope in wholes:
        spent[tenant, f"{scope}-{TPD}"] += tokens
        spent[tenant, f"{scope}-{MONEY}"] += money


def given_back(record: Outstanding, spent: Spent, now: float) -> dict[str, int]:
    """Say what to subtract from which counter; counters of windows that have ended are left."""
    back: dict[str, int] = {}
    for counter, amount in record.shares.items():
        subject = routes.parse_quota(counter)
        if end_of(subject.span, subject.window) <= now:
            continue
        scope, kind = subject.what.rsplit("-", 1)
        if subject.tenant == routes.PLATFORM:  # whatever model an event names: rather too much
            scope = "model"
        left = amount - spent[subject.tenant, f"{scope}-{kind}"]
        if left > 0:
            back[counter] = left
    return back


def tenants_of(record: Outstanding) -> set[str]:
    """Say whose events are to be read; `*` for everybody's."""
    tenants = {routes.parse_quota(counter).tenant for counter in record.shares}
    return {"*"} if routes.PLATFORM in tenants else tenants
