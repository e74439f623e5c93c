"""JobsView: the jobs that are not over, as a local copy of the bucket `jobs`; whoever waits for a change is woken."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from inferbus import routes
from inferbus.batch.job_book import job_from
from inferbus.batch.states import is_over
from inferbus.bus import Bus
from inferbus.bus.local_copy import LocalCopy
from inferbus.contracts.batch import JobRecord
from inferbus.errors import InvalidRequest

log = structlog.get_logger()


class JobsView(LocalCopy):
    """Follows every job. `on_change` listeners hear of each change, of a job's end too."""

    def __init__(self, bus: Bus) -> None:
        self._jobs: dict[str, JobRecord] = {}
        self._listeners: list[Callable[[JobRecord], None]] = []
        super().__init__(bus, routes.KV_JOBS)

    def open(self) -> list[JobRecord]:
        """Give the jobs that are not over."""
        return list(self._jobs.values())

    def find(self, job_id: str) -> JobRecord | None:
        """Give a job that is not over."""
        return self._jobs.get(job_id)

    def on_change(self, listener: Callable[[JobRecord], None]) -> Callable[[], None]:
        """Be called with every job that changed; call what is returned to be called no more."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _on_change(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._jobs.pop(key.rsplit(".", 1)[-1], None)
            return
        try:
            job = job_from(value)
        except InvalidRequest as exc:
            log.error("job_unreadable", key=key, error=exc.message)
            return
        if is_over(job):
            self._jobs.pop(job.id, None)
        else:
            self._jobs[job.id] = job
        for listener in list(self._listeners):
            listener(job)
