"""POST /v1/requests/{id}/cancel: stop a request by its id, from any connection and at any gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inferbus.errors import NotFound
from inferbus.routes import is_request_id
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import ModelsOperation


class CancelledRequest(msgspec.Struct, kw_only=True):
    """`status` is `cancelled`; or `completed` or `failed` where the request had ended before."""

    id: str
    object: str = "inferbus.request"
    status: str


def build_cancel(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @post(
        "/v1/requests/{request_id:str}/cancel",
        status_code=200,
        summary="Cancel a request, queued or running",
        operation_class=ModelsOperation,
    )
    async def cancel_request(request: Request[Any, Any, Any], request_id: FromPath[str]) -> CancelledRequest:
        """Stop the engine, free the slot, end the original request with a 499. Asking again gives the same answer."""
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        if not is_request_id(request_id):
            raise NotFound(f"no request {request_id[:128]}", param="request_id")
        return CancelledRequest(id=request_id, status=await deps.canceller.cancel(identity.tenant, request_id))

    return [cancel_request]
