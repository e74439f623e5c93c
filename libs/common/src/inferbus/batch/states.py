"""States of a job: what may follow what, and what a wish does to a job. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inferbus.contracts.batch import (
    BY_USER,
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    VALIDATING,
    JobRecord,
    Pause,
)
from inferbus.errors import Conflict

TERMINAL = frozenset({COMPLETED, FAILED, EXPIRED, CANCELLED})

ALLOWED: Mapping[str, frozenset[str]] = {
    VALIDATING: frozenset({IN_PROGRESS, FAILED, CANCELLING, CANCELLED, EXPIRED}),
    IN_PROGRESS: frozenset({FINALIZING, CANCELLING}),
    CANCELLING: frozenset({FINALIZING, CANCELLED}),
    FINALIZING: frozenset({COMPLETED, FAILED, EXPIRED, CANCELLED}),
    COMPLETED: frozenset(),
    FAILED: frozenset(),
    EXPIRED: frozenset(),
    CANCELLED: frozenset(),
}
"""What may follow each state. A job that ends early is `in_progress` (or `cancelling`) with an `ending` until each of its
rows has a result, then `finalizing`, then what its `ending` says."""


def is_over(job: JobRecord) -> bool:
    return job.state in TERMINAL


def is_closing(job: JobRecord) -> bool:
    """Whether its chunks are only to be brought to an end: no line is asked any more."""
    return job.ending != "" and job.state in (IN_PROGRESS, CANCELLING)


def is_runnable(job: JobRecord) -> bool:
    """Whether its chunks may be taken."""
    return job.state in (IN_PROGRESS, CANCELLING) and bool(job.plan) and (is_closing(job) or job.paused is None)


def moved(job: JobRecord, state: str, now: float) -> JobRecord:
    """Give a job in its next state.

    Raises:
        Conflict: that may not follow.
    """
    if state not in ALLOWED[job.state]:
        raise Conflict(f"a batch that is {job.state} cannot become {state}")
    if state == FINALIZING and job.parts < job.chunks:
        raise Conflict(f"{job.chunks - job.parts} parts are missing")
    if job.state == FINALIZING and state != final_state(job):
        raise Conflict(f"a batch that is to be {final_state(job)} cannot become {state}")
    return msgspec.structs.replace(job, state=state, since=job.since | {state: now})


def final_state(job: JobRecord) -> str:
    return job.ending or COMPLETED


def cancelled(job: JobRecord, now: float) -> JobRecord:
    """Give a job that somebody wants cancelled; the same one where that has been said, or it is ending early anyhow.

    Raises:
        Conflict: it is over, or its files are being written.
    """
    if job.state in (CANCELLING, CANCELLED) or (job.ending and job.state == IN_PROGRESS):
        return job
    if job.state == VALIDATING:  # nothing was begun
        return msgspec.structs.replace(moved(job, CANCELLED, now), ending=CANCELLED, paused=None)
    return msgspec.structs.replace(moved(job, CANCELLING, now), ending=CANCELLED, paused=None)


def ended_early(job: JobRecord, ending: str) -> JobRecord:
    """Give a job whose lines are not to be asked any more; one that is ending stays as it is."""
    if job.ending or job.state != IN_PROGRESS:
        return job
    return msgspec.structs.replace(job, ending=ending, paused=None)


def paused(job: JobRecord, pause: Pause) -> JobRecord:
    """Give a job that rests. A reason of the platform's does not replace a wish of somebody's.

    Raises:
        Conflict: there is nothing left to rest from.
    """
    if job.state not in (VALIDATING, IN_PROGRESS) or job.ending:
        raise Conflict(f"a batch that is {job.ending or job.state} cannot be paused")
    if job.paused is not None and (job.paused.reason == BY_USER or pause.reason != BY_USER):
        return job
    return msgspec.structs.replace(job, paused=pause)


def resumed(job: JobRecord) -> JobRecord:
    """Give a job that goes on.

    Raises:
        Conflict: it is over.
    """
    if is_over(job):
        raise Conflict(f"a batch that is {job.state} cannot be resumed")
    return msgspec.structs.replace(job, paused=None)
