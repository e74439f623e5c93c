"""How the operations of batches are described in the OpenAPI document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import msgspec
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, RequestBody, Schema

from inferbus_gateway.http.openapi import error_responses, json_media


@dataclass
class BatchOperation(Operation):
    """An operation on batches; those with a body say of what type."""

    request_type: ClassVar[type[msgspec.Struct] | None] = None

    def __post_init__(self) -> None:
        self.responses = {"200": (self.responses or {})["200"]} | error_responses(400, 401, 403, 404, 409, 503)
        if self.request_type is None:
            return
        self.request_body = RequestBody(required=True, content=json_media(self.request_type))
        key = Parameter(
            name="Idempotency-Key", param_in="header", required=False, schema=Schema(type=OpenAPIType.STRING),
            description="Sent again with the same key, the batch is begun once; for something else: 409.",
        )  # fmt: skip
        self.parameters = [*(self.parameters or []), key]


def batch_operation(request: type[msgspec.Struct]) -> type[Operation]:
    """Describe an operation that takes a body."""
    return type(f"{request.__name__}Operation", (BatchOperation,), {"request_type": request})
