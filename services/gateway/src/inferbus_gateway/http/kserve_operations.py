"""How the OpenAPI document describes the paths of KServe v2, and the shapes of its bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)

from inferbus.errors import KServeErrorBody
from inferbus.kserve.content_type import HEADER
from inferbus_gateway.http.openapi import error_responses, header_parameters, json_media

_BINARY = "application/octet-stream"
_STATUSES = (400, 401, 403, 404, 413, 422, 429, 500, 503, 504)


class InferTensor(msgspec.Struct, kw_only=True):
    """A tensor: `data` in row-major order, flat or nested; or `parameters.binary_data_size` and raw bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] = []


class InferOutput(msgspec.Struct, kw_only=True):
    """A wanted output; `parameters.binary_data` or `parameters.classification` say how."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(msgspec.Struct, kw_only=True):
    """A request of inference."""

    inputs: list[InferTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[InferOutput] = []


class InferAnswer(msgspec.Struct, kw_only=True):
    """What a model made of it."""

    model_name: str
    outputs: list[InferTensor]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = {}


SHAPES: tuple[type[msgspec.Struct], ...] = (InferBody, InferAnswer, KServeErrorBody)


@dataclass
class KServeOperation(Operation):
    """An operation about models: needs a key, and its errors have KServe's form."""

    def __post_init__(self) -> None:
        answers = {status: answer for status, answer in (self.responses or {}).items() if status == "200"}
        self.responses = answers | error_responses(401, 403, 404, 503, body=KServeErrorBody)


@dataclass
class RepositoryOperation(KServeOperation):
    """A change of what servers have loaded: an administrator's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.security = [{"admin": []}]


@dataclass
class InferOperation(Operation):
    """Inference: JSON, or JSON with binary tensors behind it."""

    def __post_init__(self) -> None:
        binary = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))
        self.request_body = RequestBody(required=True, content={**json_media(InferBody), _BINARY: binary})
        content = {**json_media(InferAnswer), _BINARY: binary}
        self.responses = {
            "200": OpenAPIResponse(
                description="The answer; of `generate` an object by output; events of `generate_stream`.",
                content=content,
            )
        }
        self.responses |= error_responses(*_STATUSES, body=KServeErrorBody)
        length = Parameter(
            name=HEADER, param_in="header", required=False, schema=Schema(type=OpenAPIType.STRING),
            description="The length of the JSON in front of binary tensors; also in answers that have some.",
        )  # fmt: skip
        self.parameters = [*(self.parameters or []), length, *header_parameters()]
