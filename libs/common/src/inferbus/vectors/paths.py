"""The paths of what is done with a collection's documents, in a batch: each line's names its collection."""

from __future__ import annotations

DOCUMENTS, SEARCH = "documents", "search"
BATCH_DOCUMENTS, BATCH_SEARCH = "/v1/vectors/documents", "/v1/vectors/search"
BATCHED = {BATCH_DOCUMENTS: DOCUMENTS, BATCH_SEARCH: SEARCH}
"""A batch's endpoint, and what all its lines do."""
_ROOT = "/v1/vectors/"


def collection_of(path: str, verb: str) -> str:
    """Read `/v1/vectors/<collection>/<verb>`; empty where it is another path."""
    name, slash, last = path.removeprefix(_ROOT).partition("/")
    return name if path.startswith(_ROOT) and slash and last == verb else ""


def verb_of(path: str) -> str:
    """Say what is done with documents there."""
    return path.rpartition("/")[2]
