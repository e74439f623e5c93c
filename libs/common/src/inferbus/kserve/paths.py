"""The protocol's paths of a model: what they ask for, and of which version."""

from __future__ import annotations

from functools import lru_cache

import msgspec

PREFIX = "/v2/models/"
INFER, GENERATE, GENERATE_STREAM = "infer", "generate", "generate_stream"
READY, STATS, CONFIG = "ready", "stats", "config"
METADATA = ""
INFERENCE = (INFER, GENERATE, GENERATE_STREAM)
"""What is asked with a POST."""
_VERBS = (*INFERENCE, READY, STATS, CONFIG)
_VERSIONS = "/versions/"


class ModelPath(msgspec.Struct, frozen=True):
    """`version` empty: the server's choice. `verb` empty: the model's metadata."""

    model: str
    version: str = ""
    verb: str = METADATA


@lru_cache(maxsize=256)
def parse_path(path: str) -> ModelPath | None:
    """Read `/v2/models/{model}[/versions/{version}][/{verb}]`, decoded; None where it is none of these. It is read from its
    end, since a name may have slashes."""
    if not path.startswith(PREFIX):
        return None
    rest, verb = path.removeprefix(PREFIX).rstrip("/"), METADATA
    head, slash, tail = rest.rpartition("/")
    if slash and tail in _VERBS:
        rest, verb = head, tail
    head, slash, tail = rest.rpartition(_VERSIONS)
    if slash and "/" not in tail:
        return ModelPath(head, tail, verb) if head and tail else None
    return ModelPath(rest, "", verb) if rest else None


def path_of(model: str, version: str = "", verb: str = INFER) -> str:
    """Write the canonical path."""
    version = f"{_VERSIONS}{version}" if version else ""
    return f"{PREFIX}{model}{version}/{verb}" if verb else f"{PREFIX}{model}{version}"
