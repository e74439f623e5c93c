"""The one error tree and the one table behind every error a user sees.

The type says what the runtime does next:

    InferbusError
    +-- Permanent      reply failed, dead letter, terminate. Trying again cannot help.
    |     InvalidRequest 400 · Unauthenticated 401 · Forbidden 403 · NotFound 404
    |     Conflict 409 · TooLarge 413 · Unsupported 422
    +-- Transient      nak with a delay, up to the route's limit, then a dead letter.
    |     Overloaded 503 · TenantOverloaded 429 · DependencyDown 503 · EngineDead 503
    |     RateLimited 429 · StorageDown 503 · FeaturesStale 503
    |     ResumeImpossible 503
    +-- Ended          acknowledge, count, never retry.
          Cancelled 499 · DeadlineWhileQueued 503 · DeadlineWhileRunning 504

Anything else is a bug: traceback, nak with backoff, dead letter at the limit.

HTTP status, the OpenAI error body and the KServe error body all derive from `ERROR_TABLE`;
`docs/errors.md` is generated from it. What the runtime does is `verdict_of`, and nothing else decides it.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import msgspec


class ErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the error table: what a code means to each protocol."""

    code: str
    http_status: int
    openai_type: str
    retryable: bool
    meaning: str


def _row(code: str, http_status: int, openai_type: str, retryable: bool, meaning: str) -> ErrorRow:
    return ErrorRow(code=code, http_status=http_status, openai_type=openai_type, retryable=retryable, meaning=meaning)


ERROR_TABLE: dict[str, ErrorRow] = {
    row.code: row
    for row in (
        _row("invalid_request", 400, "invalid_request_error", False, "The body or a header is malformed; the message names the field."),
        _row("unauthenticated", 401, "authentication_error", False, "The key is missing, unknown, expired, revoked or wrong."),
        _row("forbidden", 403, "permission_error", False, "The key is valid but may not do this (another tenant's subject; a model, endpoint, lane or length it is not entitled to)."),
        _row("not_found", 404, "invalid_request_error", False, "No such model, request or path."),
        _row("conflict", 409, "invalid_request_error", False, "The same idempotency key was used with another body; or what is there does not allow it (a name that is taken, a revoked key)."),
        _row("too_large", 413, "invalid_request_error", False, "The body is over the limit; the message has both numbers."),
        _row("unsupported", 422, "invalid_request_error", False, "The model exists but cannot do what was asked."),
        _row("tenant_overloaded", 429, "rate_limit_error", True, "This tenant has too many requests waiting or running for this pool."),
        _row("rate_limit_exceeded", 429, "rate_limit_error", True, "A limit of requests, tokens or money is used up; the message names it, Retry-After says when its window ends."),
        _row("cancelled", 499, "cancelled", False, "The client went away or cancelled; the engine was told to stop."),
        _row("internal", 500, "server_error", False, "A bug. The request is in the dead letters with its reason."),
        _row("overloaded", 503, "server_error", True, "The pool's queue is full."),
        _row("dependency_down", 503, "server_error", True, "The bus or another part cannot be reached; nothing was accepted."),
        _row("storage_down", 503, "server_error", True, "The storage of files cannot be used now; what it has is not lost."),
        _row("features_stale", 503, "server_error", True, "A feature is older than the request or its service allows; the message names it."),
        _row("engine_dead", 503, "server_error", True, "The engine died under this request and it could not be continued."),
        _row("resume_impossible", 503, "server_error", True, "The worker was lost in mid-stream and no other can go on exactly where it stopped."),
        _row("poison", 500, "server_error", False, "This request killed the engine, alone and repeatedly; it is in the dead letters."),
        _row("deadline_queued", 503, "server_error", True, "The deadline passed before a worker could start."),
        _row("deadline_running", 504, "timeout_error", False, "The deadline passed while the request was running."),
        _row("slow_client", 499, "cancelled", False, "The client read too slowly; its buffer was full and the request was cancelled."),
    )
}  # fmt: skip


class InferbusError(Exception):
    """Base of the tree. `code` is a key of `ERROR_TABLE`; `message` is for the user."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def row(self) -> ErrorRow:
        return ERROR_TABLE[self.code]


class Permanent(InferbusError):
    """Trying again cannot help."""


class InvalidRequest(Permanent):
    code = "invalid_request"


class Unauthenticated(Permanent):
    code = "unauthenticated"


class Forbidden(Permanent):
    code = "forbidden"


class NotFound(Permanent):
    code = "not_found"


class Conflict(Permanent):
    code = "conflict"


class TooLarge(Permanent):
    code = "too_large"


class Unsupported(Permanent):
    code = "unsupported"


class Poison(Permanent):
    """The request itself kills engines; it was shown so by running alone."""

    code = "poison"


class Transient(InferbusError):
    """Later, or elsewhere, it may work. `retry_after_s` is the hint the user gets."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class Overloaded(Transient):
    code = "overloaded"


class TenantOverloaded(Transient):
    code = "tenant_overloaded"


class RateLimited(Transient):
    """A limit of a key, team, organisation or model is used up. `headers` go with the answer. `hopeless`: it alone may need
    more than the whole limit, and no waiting helps."""

    code = "rate_limit_exceeded"
    headers: tuple[tuple[str, str], ...] = ()
    hopeless = False


class DependencyDown(Transient):
    code = "dependency_down"


class StorageDown(Transient):
    """The storage of files and batch results is away, full or refuses us."""

    code = "storage_down"


class FeaturesStale(Transient):
    """What is stored is older than whoever asks will take; once it has been written again it will do."""

    code = "features_stale"


class EngineDead(Transient):
    code = "engine_dead"


class ResumeImpossible(Transient):
    """A begun stream cannot be continued: another model or engine version, or a request no engine can resume."""

    code = "resume_impossible"


class Ended(InferbusError):
    """The request is over and nobody waits for it."""


class Cancelled(Ended):
    code = "cancelled"


class SlowClient(Ended):
    code = "slow_client"


class DeadlineWhileQueued(Ended):
    code = "deadline_queued"


class DeadlineWhileRunning(Ended):
    code = "deadline_running"


class Verdict(Enum):
    """What the runtime does with the message whose handling raised."""

    TERMINATE = "terminate"
    RETRY = "retry"
    ACKNOWLEDGE = "acknowledge"
    BUG = "bug"


def verdict_of(error: BaseException) -> Verdict:
    """Map any exception to what happens next: the only such mapping (STYLE.md, Errors)."""
    match error:
        case Permanent():
            return Verdict.TERMINATE
        case Transient():
            return Verdict.RETRY
        case Ended():
            return Verdict.ACKNOWLEDGE
        case _:
            return Verdict.BUG


_CLASSES: dict[str, type[InferbusError]] = {
    cls.code: cls
    for cls in (
        InvalidRequest, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge, Unsupported, Poison, Overloaded,
        TenantOverloaded, DependencyDown, EngineDead, ResumeImpossible, Cancelled, SlowClient, DeadlineWhileQueued,
        DeadlineWhileRunning, RateLimited, StorageDown, FeaturesStale,
    )
}  # fmt: skip


def error_from(code: str, message: str) -> InferbusError:
    """Rebuild an error that crossed the bus as (code, message). Unknown codes become `InferbusError`."""
    return _CLASSES.get(code, InferbusError)(message)


class OpenAIErrorDetail(msgspec.Struct, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class OpenAIErrorBody(msgspec.Struct, kw_only=True):
    """The error body of the OpenAI API: `{"error": {"message", "type", "param", "code"}}`."""

    error: OpenAIErrorDetail


def openai_body(error: InferbusError) -> OpenAIErrorBody:
    """Render an error as the OpenAI API's error body."""
    return OpenAIErrorBody(
        error=OpenAIErrorDetail(message=error.message, type=error.row.openai_type, param=error.param, code=error.code)
    )


class KServeErrorBody(msgspec.Struct, kw_only=True):
    """The error body of KServe v2: `{"error": "..."}`."""

    error: str


def kserve_body(error: InferbusError) -> KServeErrorBody:
    """Render an error as KServe v2's error body."""
    return KServeErrorBody(error=error.message or error.row.meaning)


def retry_after_of(error: InferbusError) -> str | None:
    """Give the `Retry-After` header (whole seconds, at least 1), or None where retrying is pointless."""
    if not error.row.retryable:
        return None
    return str(max(1, round(error.retry_after_s))) if isinstance(error, Transient) else "1"
