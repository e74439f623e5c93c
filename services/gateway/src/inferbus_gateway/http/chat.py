"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.types import ASGIApp

from inferbus_gateway.http.answers import ChatCompletion, ChatCompletionChunk
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint, InferenceRoute
from inferbus_gateway.http.openapi import inference_operation

PATH = "/v1/chat/completions"


class ChatMessage(msgspec.Struct, frozen=True):
    """One message; `content`, `tool_calls` and the rest are the engine's business."""

    role: str


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway reads of a chat request. The body goes to the engine as it came, other fields included."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[msgspec.Raw] | None = None
    response_format: dict[str, msgspec.Raw] | None = None
    user: str | None = None


def build_chat(deps: HttpDeps) -> InferenceRoute:
    endpoint = InferenceEndpoint(deps, path=PATH, task="chat", view=ChatRequest)

    @post(
        PATH,
        status_code=200,
        sync_to_thread=False,
        summary="Chat completion",
        operation_class=inference_operation(ChatRequest, ChatCompletion, ChatCompletionChunk),
    )
    def create_chat_completion() -> ASGIApp:
        """Answer a conversation, streamed as server-sent events if `stream` is true."""
        return endpoint.as_asgi()

    return InferenceRoute(endpoint, create_chat_completion)
