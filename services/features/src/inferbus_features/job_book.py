"""FeatureJobBook: the bucket `feature_jobs`. Jobs and leases are changed by compare-and-set, so that nobody's change is lost."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, last_stored, read_page
from inferbus.codec import from_json, to_json
from inferbus.contracts.features import FeatureJob, Lease
from inferbus.errors import Conflict, NotFound

_TRIES = 50
R = TypeVar("R", FeatureJob, Lease)


class FeatureJobBook:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(self, job: FeatureJob) -> FeatureJob:
        """Note a job under a new id."""
        named = msgspec.structs.replace(job, id=f"mat_{secrets.token_hex(8)}")
        await self._put(routes.tenant_key(named.tenant, named.id), named, 0)
        return named

    async def find(self, tenant: str, job_id: str) -> FeatureJob:
        """Give a tenant's job.

        Raises:
            NotFound: it has none of this id.
        """
        found = None
        if routes.is_request_id(job_id):
            found, _ = await self._read(routes.tenant_key(tenant, job_id), FeatureJob)
        if found is None:
            raise NotFound(f"there is no job {job_id!r}", param="id")
        return found

    async def change(self, tenant: str, job_id: str, decide: Callable[[FeatureJob], FeatureJob]) -> FeatureJob:
        """Change a job, again if somebody else was first; what `decide` raises is raised.

        Raises:
            NotFound: there is none. Conflict: others change it all the time.
        """
        key = routes.tenant_key(tenant, job_id)
        for _ in range(_TRIES):
            job, revision = await self._read(key, FeatureJob)
            if job is None:
                raise NotFound(f"there is no job {job_id!r}", param="id")
            after = decide(job)
            if after == job:
                return job
            try:
                await self._put(key, after, revision)
            except WrongSequence:
                continue
            return after
        raise Conflict(f"the job {job_id} is being changed")

    async def of_tenant(self, tenant: str) -> list[FeatureJob]:
        """Give a tenant's jobs in the order of their last change."""
        subject, seq, left = routes.kv_subject(routes.KV_FEATURE_JOBS, routes.tenant_key(tenant, "*")), 1, 1
        found: list[FeatureJob] = []
        while left:
            page, left = await read_page(self._bus, routes.kv_stream(routes.KV_FEATURE_JOBS), subject, seq)
            for stored in page:
                seq = stored.seq + 1
                if stored.data:
                    found.append(from_json(stored.data, FeatureJob, what="job"))
            left = left if page else 0
        return found

    async def hold(self, what: str, me: str, now: float, lease_s: float) -> bool:
        """Take or renew a lease; False: another lives."""
        key = routes.tenant_key(routes.PLATFORM, what)
        lease, revision = await self._read(key, Lease)
        if lease is not None and lease.owner not in ("", me) and now - lease.beat < lease_s:
            return False
        try:
            await self._put(key, Lease(owner=me, beat=now), revision)
        except WrongSequence:
            return False
        return True

    async def release(self, what: str, me: str) -> None:
        """Let go of a lease that is ours."""
        key = routes.tenant_key(routes.PLATFORM, what)
        lease, revision = await self._read(key, Lease)
        if lease is not None and lease.owner == me:
            try:
                await self._put(key, Lease(), revision)
            except WrongSequence:
                return

    async def _read(self, key: str, type_: type[R]) -> tuple[R | None, int]:
        subject = routes.kv_subject(routes.KV_FEATURE_JOBS, key)
        stored = await last_stored(self._bus, routes.kv_stream(routes.KV_FEATURE_JOBS), subject, hold_s=HOLD_S)
        if stored is None:
            return None, 0
        return (from_json(stored.data, type_, what="job") if stored.data else None), stored.seq

    async def _put(self, key: str, value: FeatureJob | Lease, expected: int) -> None:
        headers = {EXPECTED: str(expected)}
        await self._bus.accept(
            routes.kv_subject(routes.KV_FEATURE_JOBS, key), to_json(value), headers, msg_id=secrets.token_hex(12)
        )
