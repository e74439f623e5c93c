"""A job's states: whatever is wished for and happens, in whatever order, it ends once and stays ended."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.batch.states import (
    ALLOWED,
    TERMINAL,
    cancelled,
    ended_early,
    final_state,
    is_closing,
    is_over,
    is_runnable,
    moved,
    paused,
    resumed,
)
from inferbus.contracts.batch import (
    BY_USER,
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    STATES,
    STORAGE_DOWN,
    VALIDATING,
    JobRecord,
    Pause,
)
from inferbus.errors import Conflict

JOB = JobRecord(id="batch_1", tenant="dev", endpoint="/v1/completions", input_file_id="f", created=0, expires_at=9)
RUNNING = msgspec.structs.replace(JOB, state=IN_PROGRESS, plan="p", chunks=2)
WISHES = {
    "cancel": lambda job: cancelled(job, 1.0),
    "pause": lambda job: paused(job, Pause(reason=BY_USER)),
    "rest": lambda job: paused(job, Pause(reason=STORAGE_DOWN)),
    "resume": resumed,
    "expire": lambda job: ended_early(job, EXPIRED),
    "fail": lambda job: ended_early(job, FAILED),
    "part": lambda job: msgspec.structs.replace(job, parts=min(job.chunks, job.parts + 1)),
} | {state: lambda job, state=state: moved(job, state, 1.0) for state in STATES}


def test_every_state_has_a_row() -> None:
    assert set(ALLOWED) == set(STATES)
    assert {state for state in STATES if not ALLOWED[state]} == TERMINAL


@given(st.sampled_from([JOB, RUNNING]), st.lists(st.sampled_from(sorted(WISHES)), max_size=30))
def test_whatever_happens_a_job_ends_once_and_with_all_its_parts(job: JobRecord, steps: list[str]) -> None:
    for step in steps:
        before = job
        with contextlib.suppress(Conflict):
            job = WISHES[step](job)
        assert not is_over(before) or job.state == before.state
        assert job.ending == before.ending or not before.ending, "how it ends is decided once"
        if job.state in (FINALIZING, COMPLETED):
            assert job.parts == job.chunks
        if is_over(job) and before.state == FINALIZING:
            assert job.state == final_state(job)
        if job.ending or is_over(job):
            assert job.paused is None or before.paused is not None
        assert is_runnable(job) <= (job.state in (IN_PROGRESS, CANCELLING))


def test_cancelled_before_it_was_planned_it_is_over_at_once() -> None:
    assert cancelled(JOB, 1.0).state == CANCELLED


def test_cancelled_while_it_runs_every_line_still_gets_a_result() -> None:
    job = cancelled(paused(RUNNING, Pause(reason=BY_USER)), 1.0)
    assert (job.state, job.ending, job.paused) == (CANCELLING, CANCELLED, None)
    assert is_closing(job)
    assert is_runnable(job)
    with pytest.raises(Conflict, match="2 parts are missing"):
        moved(job, FINALIZING, 2.0)
    done = moved(msgspec.structs.replace(job, parts=2), FINALIZING, 2.0)
    assert moved(done, CANCELLED, 3.0).since == {CANCELLING: 1.0, FINALIZING: 2.0, CANCELLED: 3.0}
    with pytest.raises(Conflict):
        moved(done, COMPLETED, 3.0)


def test_the_platform_s_reason_does_not_replace_a_wish() -> None:
    job = paused(RUNNING, Pause(reason=BY_USER))
    assert paused(job, Pause(reason=STORAGE_DOWN)) == job
    rests = paused(RUNNING, Pause(reason=STORAGE_DOWN))
    assert paused(rests, Pause(reason=BY_USER)).paused == Pause(reason=BY_USER)
    assert not is_runnable(rests)
    assert is_runnable(resumed(rests))


def test_what_is_being_written_cannot_be_cancelled() -> None:
    job = moved(msgspec.structs.replace(RUNNING, parts=2), FINALIZING, 1.0)
    with pytest.raises(Conflict):
        cancelled(job, 2.0)
    assert ended_early(job, EXPIRED) == job
    with pytest.raises(Conflict):
        moved(msgspec.structs.replace(JOB, state=VALIDATING), COMPLETED, 1.0)
