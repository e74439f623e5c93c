"""The OpenAPI document: request and answer shapes of the inference paths, from msgspec Structs.

The inference routes take no Litestar arguments (see inference.py), so their operations are described here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from litestar import Litestar
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from inferbus.errors import ERROR_TABLE, OpenAIErrorBody

_REF = "#/components/schemas/{name}"
_JSON, _SSE = "application/json", "text/event-stream"
_HEADERS = {
    "X-Request-Id": "Your id for this request: letters, digits, `_`, `-`, up to 128. Comes back in the answer and names"
    " the request in logs and traces.",
    "X-Inferbus-Deadline-Ms": "How long you are willing to wait, queueing included; default the model's.",
    "X-Inferbus-Lane": "`interactive` (default) or `batch`.",
    "X-Inferbus-Durable": "`true`: the answer is kept and goes on without its client; every event has an id. See"
    " `/v1/requests/{id}`.",
    "Idempotency-Key": "Durable, and done once: the same key and body again joins the running request or gets its stored"
    " answer (`X-Inferbus-Replayed: true`); another body is a 409.",
    "Last-Event-ID": "With a durable request asked for again: the events after this one.",
    "traceparent": "W3C trace context.",
}
_STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504)


@dataclass
class InferenceOperation(Operation):
    """An operation whose bodies are described by Structs the route itself does not mention."""

    request_type: ClassVar[type[msgspec.Struct]]
    response_type: ClassVar[type[msgspec.Struct]]
    chunk_type: ClassVar[type[msgspec.Struct] | None] = None

    def __post_init__(self) -> None:
        self.request_body = RequestBody(required=True, content={_JSON: _media(self.request_type)})
        answer = {_JSON: _media(self.response_type)}
        if self.chunk_type is not None:
            answer[_SSE] = OpenAPIMediaType(schema=Reference(ref=_REF.format(name=self.chunk_type.__name__)))
        self.responses = {"200": OpenAPIResponse(description="The answer; events if `stream` is true.", content=answer)}
        self.responses |= error_responses(*_STATUSES)
        self.parameters = header_parameters()


@dataclass
class ModelsOperation(Operation):
    """An operation that needs a key and takes no body."""

    def __post_init__(self) -> None:
        answers = self.responses or {}
        self.responses = {"200": answers["200"]} | error_responses(401, 404)


@dataclass
class OpenOperation(Operation):
    """An operation that needs no key."""

    def __post_init__(self) -> None:
        self.security = []


def inference_operation(
    request: type[msgspec.Struct], response: type[msgspec.Struct], chunk: type[msgspec.Struct] | None = None
) -> type[Operation]:
    """Describe an inference route by its request, answer, and (where it streams) event Structs."""
    fields = {"request_type": request, "response_type": response, "chunk_type": chunk}
    return type(f"{request.__name__}Operation", (InferenceOperation,), fields)


def openapi_config() -> OpenAPIConfig:
    """Where the document and its page are served: /docs, /docs/openapi.json, /docs/openapi.yaml."""
    return OpenAPIConfig(
        title="Inferbus",
        version="1",
        summary="OpenAI-compatible inference over a durable queue",
        path="/docs",
        render_plugins=[SwaggerRenderPlugin(path="/"), JsonRenderPlugin(), YamlRenderPlugin()],
        components=Components(
            security_schemes={
                "key": SecurityScheme(type="http", scheme="bearer"),
                "admin": SecurityScheme(type="http", scheme="bearer", description="An admin key, `ib-admin-...`."),
            }
        ),
        security=[{"key": []}],
    )


def add_schemas(app: Litestar, types: Sequence[type[msgspec.Struct]]) -> None:
    """Put the schemas that operations refer to into the application's document."""
    _, components = msgspec.json.schema_components([*types, OpenAIErrorBody], ref_template=_REF)
    schemas: dict[str, Any] = app.openapi_schema.components.schemas  # plain dicts are valid there
    schemas.update(components)


def document(app: Litestar) -> bytes:
    """Write the whole document as indented JSON, the same for the same code."""
    text = json.dumps(app.openapi_schema.to_schema(), indent=1, sort_keys=True)
    return text.encode() + b"\n"


def header_parameters() -> list[Parameter | Reference]:
    """Describe the headers every inference takes."""
    return [
        Parameter(
            name=name, param_in="header", required=False, description=text, schema=Schema(type=OpenAPIType.STRING)
        )
        for name, text in _HEADERS.items()
    ]


def error_responses(
    *statuses: int, body: type[msgspec.Struct] = OpenAIErrorBody
) -> dict[str, OpenAPIResponse | Reference]:
    """Describe error answers from the error table."""
    return {
        str(status): OpenAPIResponse(
            description=" ".join(row.meaning for row in ERROR_TABLE.values() if row.http_status == status),
            content={_JSON: _media(body)},
        )
        for status in statuses
    }


def json_media(type_: type[msgspec.Struct]) -> dict[str, OpenAPIMediaType]:
    """Describe a JSON body by its Struct."""
    return {_JSON: _media(type_)}


def _media(type_: type[msgspec.Struct]) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=Reference(ref=_REF.format(name=type_.__name__)))
