"""The content type that carries the length of an answer's JSON through the platform."""

from __future__ import annotations

HEADER = "Inference-Header-Content-Length"
JSON = "application/json"
_BINARY = "application/octet-stream; json-bytes="


def content_type_of(json_bytes: int) -> str:
    """Give the content type of a body whose JSON has so many bytes; 0: all of it."""
    return f"{_BINARY}{json_bytes}" if json_bytes else JSON


def json_bytes_of(content_type: str) -> int:
    """Read it back; 0 for any other content type."""
    number = content_type.removeprefix(_BINARY)
    return int(number) if number is not content_type and number.isdigit() else 0
