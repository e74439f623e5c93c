"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.types import ASGIApp

from inferbus_gateway.http.answers import EmbeddingList
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint, InferenceRoute
from inferbus_gateway.http.openapi import inference_operation

PATH = "/v1/embeddings"


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway reads of an embedding request. `input`: text, texts, token ids, or lists of token ids."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None


def build_embeddings(deps: HttpDeps) -> InferenceRoute:
    endpoint = InferenceEndpoint(deps, path=PATH, task="embeddings", view=EmbeddingRequest)

    @post(
        PATH,
        status_code=200,
        sync_to_thread=False,
        summary="Embeddings",
        operation_class=inference_operation(EmbeddingRequest, EmbeddingList),
    )
    def create_embedding() -> ASGIApp:
        return endpoint.as_asgi()

    return InferenceRoute(endpoint, create_embedding)
