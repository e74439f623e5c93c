"""The HTTP door as one Litestar application."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Litestar
from litestar.exceptions import HTTPException

from inferbus.errors import InferbusError
from inferbus_gateway.http.answers import ChatCompletion, ChatCompletionChunk, Completion, EmbeddingList
from inferbus_gateway.http.chat import ChatRequest, build_chat
from inferbus_gateway.http.completions import CompletionRequest, build_completions
from inferbus_gateway.http.embeddings import EmbeddingRequest, build_embeddings
from inferbus_gateway.http.health import build_health
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.models import build_models
from inferbus_gateway.http.openapi import add_schemas, openapi_config
from inferbus_gateway.http.problems import on_exception, on_http_exception, on_inferbus_error

_TYPES: Sequence[type[msgspec.Struct]] = [
    ChatRequest, ChatCompletion, ChatCompletionChunk, CompletionRequest, Completion, EmbeddingRequest, EmbeddingList,
]  # fmt: skip


def build_app(deps: HttpDeps) -> Litestar:
    """Make the application: routes, documentation, errors in OpenAI's form. No middleware: each would cost every token."""
    app = Litestar(
        route_handlers=[
            build_chat(deps), build_completions(deps), build_embeddings(deps), *build_models(deps), *build_health(deps),
        ],
        exception_handlers={
            InferbusError: on_inferbus_error,
            HTTPException: on_http_exception,
            Exception: on_exception,
        },
        openapi_config=openapi_config(),
        logging_config=None,
    )  # fmt: skip
    add_schemas(app, _TYPES)
    return app
