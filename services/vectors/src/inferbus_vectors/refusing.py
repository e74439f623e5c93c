"""Refusing: an error as whoever asked on the bus reads it."""

from __future__ import annotations

from inferbus.contracts.vector_search import VectorsRefused
from inferbus.errors import InferbusError, Transient

MAX_ANSWER_BYTES = 7 * 1024 * 1024
"""Less than a message of the bus may have."""


def refused(error: InferbusError) -> VectorsRefused:
    return VectorsRefused(
        code=error.code, message=error.message, param=error.param or "",
        retry_after_s=error.retry_after_s if isinstance(error, Transient) else 0.0,
    )  # fmt: skip
