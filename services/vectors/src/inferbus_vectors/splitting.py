"""Cutting finer: how far texts are that a model finds too long. Chunks are counted in characters, and models read tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence

FINER = 3
"""So often the texts of a document are cut in half that its model does not take."""
_LEAST_CHARS = 64
"""Never to less."""


def can_be_finer(texts: Sequence[str]) -> bool:
    """Whether texts may be cut into smaller ones."""
    return max(map(len, texts), default=0) >= 2 * _LEAST_CHARS
