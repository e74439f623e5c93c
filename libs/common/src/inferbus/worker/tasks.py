"""What a path asks for: the task a model must have, and the word the ledger has for it."""

from __future__ import annotations

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"
INFER = "infer"

_KSERVE = "/v2/"
_TASKS = {CHAT: "chat", MESSAGES: "chat", "/v1/responses": "chat", COMPLETIONS: "completions", EMBEDDINGS: "embeddings"}


def task_of(path: str) -> str:
    """Name what a path asks for; those without a task of their own by their last part (`rerank`)."""
    if path.startswith(_KSERVE):
        return INFER
    return _TASKS.get(path) or path.rsplit("/", 1)[1]
