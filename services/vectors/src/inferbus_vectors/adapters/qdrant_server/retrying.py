"""Retrying: the client does not, but for uploads. What a server says by its errors, and when it is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, NotFound, Overloaded, Transient

T = TypeVar("T")
_WAITS_S = (0.05, 0.2, 0.5, 1.0)
_AWAY = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
}  # fmt: skip


async def ask(call: Callable[[], Awaitable[T]], *, within_s: float) -> T:
    """Ask the server, again where that may help, for so long. What is asked must bear being done twice.

    Raises:
        Overloaded: it has said when to come again, and that is later. DependencyDown: it is away.
        NotFound, InvalidRequest: what it says of this call.
    """
    until = time.monotonic() + within_s
    for wait_s in (*_WAITS_S, *([_WAITS_S[-1]] * 1000)):
        try:
            return await call()
        except Exception as error:
            found = translated(error)
            pause_s = max(wait_s, found.retry_after_s) if isinstance(found, Overloaded) else wait_s
            if not isinstance(found, Transient) or time.monotonic() + pause_s >= until:
                raise found from error
        await asyncio.sleep(pause_s)
    raise AssertionError("unreachable")


def translated(error: Exception) -> InferbusError:
    """Say in our words what the client or the server said."""
    if isinstance(error, InferbusError):
        return error
    if isinstance(error, ResourceExhaustedResponse):
        return Overloaded(str(error), retry_after_s=float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return _of_status(error)
    if isinstance(error, grpc.RpcError):
        return _of_grpc(error)
    if isinstance(error, ResponseHandlingException | OSError):
        return DependencyDown(f"the vector engine cannot be reached: {error}")
    if isinstance(error, ValueError):  # of the client in memory, which has no other type for what does not fit
        missing = "not found" in str(error)
        return NotFound(str(error)) if missing else InvalidRequest(str(error))
    raise error


def _of_status(error: UnexpectedResponse) -> InferbusError:
    status, text = error.status_code or 0, error.content.decode(errors="replace")[:500]
    if status == 404:
        return NotFound(text)
    if status == 429:
        return Overloaded(text, retry_after_s=float(error.headers.get("Retry-After", "1") or 1))
    if 400 <= status < 500:
        return InvalidRequest(text)
    return DependencyDown(f"the vector engine answered {status}: {text}")


def _of_grpc(error: grpc.RpcError) -> InferbusError:
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = str(error.details() if hasattr(error, "details") else error)[:500]
    if code == grpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(text)
    if code in _AWAY:
        return DependencyDown(f"the vector engine cannot be reached: {text}")
    return InvalidRequest(text)
