"""Choosing: whose chunk is next. Tenants by their weights; within one priority, then deadline, then age. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from inferbus.batch.states import is_closing, is_runnable
from inferbus.contracts.batch import JobRecord
from inferbus_batch.domain.quiet_hours import QuietHours


class FairShares:
    """How much every tenant has had, in rows over weight. Who has had least is next; who comes back after a pause begins
    where the others are, and does not get what it did not ask for before."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}
        self._floor = 0.0

    def charge(self, tenant: str, rows: int, weight: int = 1) -> None:
        """Count what was given to a tenant."""
        self._had[tenant] = self._had.get(tenant, self._floor) + max(1, rows) / max(1, weight)

    def first(self, tenants: Iterable[str]) -> list[str]:
        """Put those who want something in order: who has had least first."""
        waiting = set(tenants)
        self._floor = max(self._floor, min((self._had[one] for one in waiting if one in self._had), default=0.0))
        for tenant in waiting:
            self._had[tenant] = max(self._had.get(tenant, 0.0), self._floor)
        self._had = {one: had for one, had in self._had.items() if one in waiting or had > self._floor}
        return sorted(waiting, key=lambda tenant: (self._had[tenant], tenant))


def choose(
    jobs: Iterable[JobRecord],
    shares: FairShares,
    *,
    now: float,
    quiet: QuietHours,
    own_quiet: Mapping[str, QuietHours],
    resting: Mapping[str, float],
) -> JobRecord | None:
    """Give the job whose chunk is next.

    `quiet` is the platform's, `own_quiet` that of jobs that have one of their own, `resting` says until when (in the time
    of `now`) a job is not to be asked: it has no chunk to give, or is over a limit. What is only to be brought to an end
    asks no engine: it goes first, and has no quiet hours.
    """
    waiting = [job for job in jobs if is_runnable(job) and resting.get(job.id, 0.0) <= now]
    closing = [job for job in waiting if is_closing(job)]
    if closing:
        return min(closing, key=lambda job: (job.created, job.id))
    awake = [job for job in waiting if not own_quiet.get(job.id, quiet).rests_at(now)]
    of_tenant: dict[str, list[JobRecord]] = {}
    for job in awake:
        of_tenant.setdefault(job.tenant, []).append(job)
    if not of_tenant:
        return None
    tenant = shares.first(of_tenant)[0]
    return min(of_tenant[tenant], key=lambda job: (-job.priority, job.expires_at, job.created, job.id))
