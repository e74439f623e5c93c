"""What the paths of the admin API have in common: the session, the body, doing a POST once, their description."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import msgspec
from litestar import Request
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, RequestBody, Schema

from inferbus.admission.replays import A
from inferbus.codec import from_json
from inferbus.errors import NotFound
from inferbus_gateway.admin_door import AdminSession
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import error_responses, json_media
from inferbus_gateway.http.requests import RECORD

W = TypeVar("W", bound=msgspec.Struct)
ADMIN_PATH = "/admin/v1"
AnyRequest = Request[Any, Any, Any]
_HEADERS = {
    "Idempotency-Key": "Sent again with the same key, a request is done once and answered the same; other contents: 409.",
    "X-Inferbus-Actor": "On whose behalf, for the audit event.",
    "X-Request-Id": "Your id for this request; it is in the audit event.",
}


class Deleted(msgspec.Struct, kw_only=True):
    """What is no more."""

    id: str
    deleted: bool = True


def open_session(deps: HttpDeps, request: AnyRequest) -> AdminSession:
    """Let an administrator in.

    Raises:
        NotFound: this gateway has no admin API. Unauthenticated: no admin key of ours.
    """
    if deps.admin is None:
        raise NotFound("this gateway serves no admin API (INFERBUS_GATEWAY_ADMIN_PASSWORD)")
    return deps.admin.open(request.headers, request.scope["state"][RECORD].request_id)


async def read_wanted(request: AnyRequest, type_: type[W]) -> W:
    """Read a body; no body is an empty one.

    Raises:
        InvalidRequest: not JSON, an unknown field, or one of the wrong type; `param` names it.
    """
    return from_json(await request.body() or b"{}", type_, what="body")


async def once(
    session: AdminSession, request: AnyRequest, type_: type[A], perform: Callable[[str, bool], Awaitable[A]]
) -> tuple[A, str, bool]:
    """Do a POST once per idempotency key (`Replays.once`)."""
    what = f"{request.method} {request.url.path}\n".encode() + await request.body()
    return await session.replays.once(session.admin, session.idempotency_key, what, type_, perform)


def unix_now() -> float:
    return time.time()


@dataclass
class AdminOperation(Operation):
    """An operation of administrators; those with a body say of what type."""

    request_type: ClassVar[type[msgspec.Struct] | None] = None

    def __post_init__(self) -> None:
        answers = {status: answer for status, answer in (self.responses or {}).items() if status in ("200", "201")}
        self.responses = answers | error_responses(400, 401, 404, 409, 503)
        self.security = [{"admin": []}]
        if self.request_type is not None:
            self.request_body = RequestBody(required=True, content=json_media(self.request_type))
        self.parameters = [
            *(self.parameters or []),
            *(
                Parameter(
                    name=name, param_in="header", required=False, description=text,
                    schema=Schema(type=OpenAPIType.STRING),
                )
                for name, text in _HEADERS.items()
            ),
        ]  # fmt: skip


def admin_operation(request: type[msgspec.Struct]) -> type[Operation]:
    """Describe an operation that takes a body."""
    return type(f"{request.__name__}Operation", (AdminOperation,), {"request_type": request})
