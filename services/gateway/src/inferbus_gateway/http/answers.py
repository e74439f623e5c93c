"""Shapes of the answers, for the OpenAPI document. The gateway sends engines' bytes and never decodes these."""

from __future__ import annotations

import msgspec


class TokenUsage(msgspec.Struct, kw_only=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ToolFunction(msgspec.Struct, kw_only=True):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, kw_only=True):
    id: str
    type: str
    function: ToolFunction


class AnswerMessage(msgspec.Struct, kw_only=True):
    role: str
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] = []


class TokenLogprob(msgspec.Struct, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[dict[str, msgspec.Raw]] = []


class ChoiceLogprobs(msgspec.Struct, kw_only=True):
    content: list[TokenLogprob] | None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage | None = None


class Delta(msgspec.Struct, kw_only=True):
    role: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, msgspec.Raw]] | None = None


class ChatChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(msgspec.Struct, kw_only=True):
    """Data of one event of a streamed chat; the last event's data is `[DONE]`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: TokenUsage | None = None


class CompletionChoice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: dict[str, msgspec.Raw] | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct, kw_only=True):
    """Answer of POST /v1/completions, and data of one of its events."""

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class EmbeddingItem(msgspec.Struct, kw_only=True):
    """`embedding` is a list of numbers, or base64 of float32 where `encoding_format` asks for it."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, kw_only=True):
    """Answer of POST /v1/embeddings."""

    object: str
    model: str
    data: list[EmbeddingItem]
    usage: TokenUsage
