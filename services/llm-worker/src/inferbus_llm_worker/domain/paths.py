"""The HTTP paths of vLLM's own application that a request may name: inference, never control of the engine."""

from __future__ import annotations

from inferbus.worker.tasks import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES

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
