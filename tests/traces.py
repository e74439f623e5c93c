"""Reading the file of spans that a local platform writes."""

from __future__ import annotations

import json
from typing import Any

from tests.running_platform import RunningPlatform

Span = dict[str, Any]


def spans_of(platform: RunningPlatform, trace_id: str) -> list[Span]:
    """Give the spans of one trace written so far. What follows the last line break is being written."""
    file = platform.layout.traces
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [span for span in map(json.loads, lines) if span["trace_id"] == trace_id]


def operation(span: Span) -> str:
    """Give the first word of a span's name: chat, publish, process ..."""
    return str(span["name"]).split()[0]
