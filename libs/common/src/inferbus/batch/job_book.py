"""JobBook: the bucket `jobs`. A record is created once, and changed by compare-and-set, so that nobody's change is lost."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

import msgspec

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.pub_ack import EXPECTED, WrongSequence
from inferbus.bus.stored import HOLD_S, last_stored, read_page
from inferbus.codec import from_json, to_json
from inferbus.contracts.batch import JobRecord
from inferbus.errors import Conflict, NotFound

_TRIES = 50


class KnownJob(msgspec.Struct, frozen=True):
    """A job, and the revision to change it at."""

    job: JobRecord
    revision: int


def new_job_id() -> str:
    """Draw a job's id; its lines' requests are named after it."""
    return f"batch_{secrets.token_hex(12)}"


class JobBook:
    """Every method raises `DependencyDown` while the bus is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(self, job: JobRecord) -> KnownJob:
        """Note a job: from here on it is begun, whatever dies.

        Raises:
            Conflict: there is another one of this id.
        """
        try:
            return KnownJob(job, await self._put(job, 0))
        except WrongSequence:
            found = await self._find(job.tenant, job.id)
            if found is not None and found.job == job:  # ours, and its acknowledgement was lost
                return found
            raise Conflict(f"there is a batch {job.id} already") from None

    async def find(self, tenant: str, job_id: str) -> KnownJob:
        """Give a tenant's job.

        Raises:
            NotFound: it has none of this id.
        """
        found = await self._find(tenant, job_id) if routes.is_request_id(job_id) else None
        if found is None:
            raise NotFound(f"No batch found with id '{job_id}'.", param="batch_id")
        return found

    async def replace(self, known: KnownJob, job: JobRecord, *, ttl_s: float = 0.0) -> KnownJob:
        """Change a job that is as it was last seen. After `ttl_s` seconds (0: never) the record goes by itself.

        Raises:
            WrongSequence: somebody else has changed it meanwhile.
        """
        return KnownJob(job, await self._put(job, known.revision, ttl_s))

    async def change(self, tenant: str, job_id: str, decide: Callable[[JobRecord], JobRecord]) -> KnownJob:
        """Change a job, again if somebody else was first. `decide` gives the job as it is to be; what it raises is raised.

        Raises:
            NotFound: there is none. Conflict: others change it all the time.
        """
        for _ in range(_TRIES):
            known = await self.find(tenant, job_id)
            job = decide(known.job)
            if job == known.job:
                return known
            try:
                return await self.replace(known, job)
            except WrongSequence:
                continue
        raise Conflict(f"the batch {job_id} is being changed")

    async def forget(self, tenant: str, job_id: str) -> None:
        await self._bus.kv_delete(routes.KV_JOBS, routes.tenant_key(tenant, job_id))

    async def of_tenant(self, tenant: str) -> AsyncIterator[JobRecord]:
        """Give a tenant's jobs, in the order of their last change."""
        subject, seq, left = routes.kv_subject(routes.KV_JOBS, routes.tenant_key(tenant, "*")), 1, 1
        while left:
            page, left = await read_page(self._bus, routes.kv_stream(routes.KV_JOBS), subject, seq)
            for stored in page:
                if stored.data:
                    yield job_from(stored.data)
                seq = stored.seq + 1
            left = left if page else 0

    async def _find(self, tenant: str, job_id: str) -> KnownJob | None:
        subject = routes.kv_subject(routes.KV_JOBS, routes.tenant_key(tenant, job_id))
        stored = await last_stored(self._bus, routes.kv_stream(routes.KV_JOBS), subject, hold_s=HOLD_S)
        return None if stored is None or not stored.data else KnownJob(job_from(stored.data), stored.seq)

    async def _put(self, job: JobRecord, expected: int, ttl_s: float = 0.0) -> int:
        subject = routes.kv_subject(routes.KV_JOBS, routes.tenant_key(job.tenant, job.id))
        headers = {EXPECTED: str(expected)}
        ttl = int(ttl_s) if ttl_s > 0 else None
        return await self._bus.accept(subject, to_json(job), headers, msg_id=secrets.token_hex(12), ttl_s=ttl)


def job_from(data: bytes) -> JobRecord:
    return from_json(data, JobRecord, what="batch job")
