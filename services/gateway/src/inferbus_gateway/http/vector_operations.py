"""How the operations on vectors are described in the OpenAPI document, and what their handlers have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import msgspec
from litestar.openapi.spec import Operation, RequestBody

from inferbus.admission.identity import Identity
from inferbus.errors import NotFound
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.kserve import AnyRequest
from inferbus_gateway.http.openapi import error_responses, json_media
from inferbus_gateway.http.requests import RECORD
from inferbus_gateway.vector_stores_door import VectorStoresDoor


@dataclass
class VectorOperation(Operation):
    """An operation on vectors; those with a body say of what type."""

    request_type: ClassVar[type[msgspec.Struct] | None] = None

    def __post_init__(self) -> None:
        answers = {status: answer for status, answer in (self.responses or {}).items() if status in ("200", "202")}
        self.responses = answers | error_responses(400, 401, 403, 404, 409, 413, 422, 429, 503)
        if self.request_type is not None:
            self.request_body = RequestBody(required=True, content=json_media(self.request_type))


def vector_operation(request: type[msgspec.Struct]) -> type[Operation]:
    """Describe an operation that takes a body."""
    return type(f"{request.__name__}Operation", (VectorOperation,), {"request_type": request})


class Session(NamedTuple):
    """Who asks, and the door."""

    identity: Identity
    door: VectorStoresDoor


@asynccontextmanager
async def open_vectors(deps: HttpDeps, request: AnyRequest) -> AsyncIterator[Session]:
    """Let somebody in, and count the request against the limits.

    Raises:
        Unauthenticated, Forbidden, RateLimited; NotFound: this gateway has no door to vectors.
    """
    identity = deps.authenticator.authenticate(request.headers.get("authorization"))
    request.scope["state"][RECORD].tenant = identity.tenant
    if deps.vectors is None:
        raise NotFound("this gateway has no vectors")
    async with deps.vectors.admitted(identity):
        yield Session(identity, deps.vectors)
