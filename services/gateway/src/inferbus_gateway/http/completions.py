"""POST /v1/completions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.types import ASGIApp

from inferbus_gateway.http.answers import Completion
from inferbus_gateway.http.chat import StreamOptions
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint, InferenceRoute
from inferbus_gateway.http.openapi import inference_operation

PATH = "/v1/completions"


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway reads of a completion request. `prompt`: text, texts, token ids, or lists of token ids."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None
    user: str | None = None


def build_completions(deps: HttpDeps) -> InferenceRoute:
    endpoint = InferenceEndpoint(deps, path=PATH, task="completions", view=CompletionRequest)

    @post(
        PATH,
        status_code=200,
        sync_to_thread=False,
        summary="Completion of a prompt",
        operation_class=inference_operation(CompletionRequest, Completion, Completion),
    )
    def create_completion() -> ASGIApp:
        return endpoint.as_asgi()

    return InferenceRoute(endpoint, create_completion)
