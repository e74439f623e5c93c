"""What a client is told: errors as the path it asked has them. Pure."""

from __future__ import annotations

import msgspec

from inferbus.errors import InferbusError, InvalidRequest, openai_body
from inferbus.worker.tasks import EMBEDDINGS


class KserveError(msgspec.Struct):
    """The error body of KServe v2."""

    error: str


def error_body(path: str, error: InferbusError) -> bytes:
    """Write an error of ours."""
    if path == EMBEDDINGS:
        return msgspec.json.encode(openai_body(error))
    return msgspec.json.encode(KserveError(error.message))


def refusal_body(path: str, message: str, status: int) -> bytes:
    """Write what the server said."""
    if path == EMBEDDINGS:
        return error_body(path, InvalidRequest(message) if status < 500 else InferbusError(message))
    return msgspec.json.encode(KserveError(message))
