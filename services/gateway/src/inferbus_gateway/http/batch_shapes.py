"""Batches as the OpenAI API describes them. What is ours besides comes last: `paused`, `priority`, `quiet_hours`, `retry_of`."""

from __future__ import annotations

import msgspec

from inferbus.contracts.batch import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    JobRecord,
)


class OutputExpiresAfter(msgspec.Struct, kw_only=True):
    """How long output and error file stay after they were made: an hour to 30 days."""

    anchor: str
    seconds: int


class NewBatch(msgspec.Struct, kw_only=True):
    """What a batch is to do. `completion_window` is `24h`, or another number of `m`, `h` or `d`, up to 30 days.

    Ours: `model` is for lines that name none; of an organisation's batches those of higher `priority` (-100 to 100) go
    first; it rests in its `quiet_hours` (`08:00-18:00`, UTC; several with commas between).
    """

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiresAfter | None = None
    model: str = ""
    priority: int = 0
    quiet_hours: str = ""


class BatchError(msgspec.Struct, kw_only=True):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[BatchError]


class RequestCounts(msgspec.Struct, kw_only=True):
    """Lines, and how many have their result: answered with 200, or in the error file."""

    total: int
    completed: int
    failed: int


class InputDetails(msgspec.Struct, kw_only=True):
    cached_tokens: int


class OutputDetails(msgspec.Struct, kw_only=True):
    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, kw_only=True):
    """Tokens of the lines that count. `wasted_tokens` were computed for what does not, and cost nothing."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int
    wasted_tokens: int


class PausedBatch(msgspec.Struct, kw_only=True):
    """Why a batch rests: `user`, `operator`, or a reason of the platform's."""

    reason: str
    message: str
    at: int


class BatchObject(msgspec.Struct, kw_only=True):
    id: str
    object: str = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    model: str | None
    usage: BatchUsage
    paused: PausedBatch | None
    priority: int
    quiet_hours: str | None
    retry_of: str | None


class BatchList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[BatchObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class EditedLine(msgspec.Struct, kw_only=True):
    """What to ask instead: a whole line, as in an input file."""

    line: int
    original: str


class Redrive(msgspec.Struct, kw_only=True):
    """Which dead letters to ask again (`lines`; none: all), and those that are to be asked otherwise."""

    lines: list[int] = []
    edited: list[EditedLine] = []


def describe_batch(job: JobRecord) -> BatchObject:
    """Give a job the form it has for clients."""

    def at(state: str) -> int | None:
        return int(job.since[state]) if state in job.since else None

    faults = [
        BatchError(code=one.code, message=one.message, param=one.param or None, line=one.line or None)
        for one in job.errors
    ]
    spent, paused = job.spent, job.paused
    return BatchObject(
        id=job.id, endpoint=job.endpoint, errors=BatchErrors(data=faults) if faults else None,
        input_file_id=job.input_file_id, completion_window=job.completion_window, status=job.state,
        output_file_id=_made(job, job.output_file_id), error_file_id=_made(job, job.error_file_id),
        created_at=int(job.created), in_progress_at=at(IN_PROGRESS), expires_at=int(job.expires_at) or None,
        finalizing_at=at(FINALIZING), completed_at=at(COMPLETED), failed_at=at(FAILED), expired_at=at(EXPIRED),
        cancelling_at=at(CANCELLING), cancelled_at=at(CANCELLED),
        request_counts=RequestCounts(
            total=job.counts.total, completed=job.counts.completed, failed=job.counts.failed
        ),
        metadata=job.metadata or None, model=job.model or None,
        usage=BatchUsage(
            input_tokens=spent.prompt_tokens, input_tokens_details=InputDetails(cached_tokens=spent.cached_tokens),
            output_tokens=spent.completion_tokens, output_tokens_details=OutputDetails(),
            total_tokens=spent.prompt_tokens + spent.completion_tokens, wasted_tokens=spent.wasted_tokens,
        ),
        paused=None if paused is None else PausedBatch(reason=paused.reason, message=paused.message, at=int(paused.at)),
        priority=job.priority, quiet_hours=job.quiet_hours or None, retry_of=job.retry_of or None,
    )  # fmt: skip


def _made(job: JobRecord, file_id: str) -> str | None:
    """A file is named in the record before it is there; clients hear of it when it is."""
    return file_id or None if job.state in (COMPLETED, FAILED, EXPIRED, CANCELLED) else None
