"""The HTTP paths of vLLM's own application that a request may name: inference, never control of the engine."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"

INFERENCE_PATHS = frozenset(
    {
        CHAT,
        COMPLETIONS,
        EMBEDDINGS,
        "/v1/responses",
        MESSAGES,
        "/v1/messages/count_tokens",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/pooling",
        "/tokenize",
        "/detokenize",
    }
)
"""Everything else (LoRA loading, sleep, cache resets, profiling, metrics) stays with the operator."""
_TASKS = {CHAT: "chat", MESSAGES: "chat", "/v1/responses": "chat", COMPLETIONS: "completions", EMBEDDINGS: "embeddings"}


def task_of(path: str) -> str:
    """Name what a path asks for; those without a task of their own by their last part (`rerank`)."""
    return _TASKS.get(path) or path.rsplit("/", 1)[1]
