"""Any exception as an HTTP problem: status, OpenAI error body, Retry-After. All from the table of inferbus.errors."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from inferbus.codec import to_json
from inferbus.errors import (
    InferbusError,
    InvalidRequest,
    KServeErrorBody,
    NotFound,
    OpenAIErrorBody,
    OpenAIErrorDetail,
    RateLimited,
    Unauthenticated,
    kserve_body,
    openai_body,
    retry_after_of,
)

JSON = b"application/json"

log = structlog.get_logger()


class Problem(msgspec.Struct, frozen=True):
    """An error, ready to send. `body` is JSON; `headers` are those the error adds."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def problem_of(error: InferbusError, *, kserve: bool = False) -> Problem:
    """Render an error of ours, in OpenAI's form or in KServe v2's."""
    headers: list[tuple[bytes, bytes]] = []
    if (retry_after := retry_after_of(error)) is not None:
        headers.append((b"retry-after", retry_after.encode()))
    elif error.row.http_status >= 500 or error.row.http_status == 409:
        # OpenAI clients ask again after any of these unless told not to: twice more the whole work, or the whole harm.
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, RateLimited):
        headers += [(name.encode(), value.encode()) for name, value in error.headers]
        if error.hopeless:
            headers.append((b"x-should-retry", b"false"))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    body = to_json(kserve_body(error) if kserve else openai_body(error))
    return Problem(error.row.http_status, body, headers)


def bug(error: BaseException, **context: str) -> InferbusError:
    """Log an exception nobody expected and give the error the client gets instead (never its text)."""
    log.error("request_crashed", exc_info=error, **context)
    return InferbusError("an internal error; the gateway's log has the details under this request id")


def error_event(body: bytes) -> bytes:
    """An error inside a stream that already began, as OpenAI clients read it."""
    return b"event: error\ndata: " + body.replace(b"\n", b" ") + b"\n\n"


def is_kserve(path: str) -> bool:
    """Whether a path is one of KServe v2, whose errors have a form of their own."""
    return path == "/v2" or path.startswith("/v2/")


# --- exceptions that reach Litestar: unknown paths, wrong methods, the plain handlers ---------------------------------


def on_inferbus_error(request: Request[Any, Any, Any], error: InferbusError) -> Response[bytes]:
    problem = problem_of(error, kserve=is_kserve(request.url.path))
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body, status_code=problem.status, media_type="application/json", headers=headers)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals, in OpenAI's error body. The status stays (405 has no row of its own)."""
    row = NotFound("") if error.status_code == 404 else InvalidRequest("")
    if error.status_code >= 500:
        return on_exception(request, error)
    message = f"{request.method} {request.url.path}: {error.detail}"
    detail = OpenAIErrorDetail(message=message, type=row.row.openai_type, code=row.code)
    kserve = is_kserve(request.url.path)
    return Response(
        to_json(KServeErrorBody(error=message) if kserve else OpenAIErrorBody(error=detail)),
        status_code=error.status_code,
        media_type="application/json",
        headers=error.headers,
    )


def on_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return on_inferbus_error(request, bug(error, path=request.url.path))
