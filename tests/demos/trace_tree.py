"""One request as a tree of spans with milliseconds, read from the file the platform writes."""

from __future__ import annotations

import secrets

from openai import AsyncOpenAI
from tests.demos.show import Show
from tests.running_platform import CHAT, RunningPlatform
from tests.traces import Span, operation, spans_of

from inferbus.testing import eventually

QUESTION = [{"role": "user", "content": "What does the threading module do?"}]


async def trace_of_one_request(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section("The trace of one request", "W3C trace context from the client through gateway and bus to the worker")
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    stream = await client.chat.completions.create(
        model=CHAT,
        messages=QUESTION,
        max_tokens=40,
        stream=True,
        extra_headers={"traceparent": f"00-{trace_id}-{caller}-01"},
    )
    async for _ in stream:
        pass
    await eventually(lambda: len(spans_of(platform, trace_id)) == 3)
    spans = spans_of(platform, trace_id)
    show.say(f"trace {trace_id}")
    origin_ns = min(span["start_ns"] for span in spans)
    order = _in_tree(spans, caller)
    for depth, span in order:
        indent = "   " * depth
        show.say(f"{indent}{_line(span, origin_ns, 58 - len(indent))}")
        for note in _notes(span):
            show.say(f"{indent}   · {note}")
    show.claim(
        "gateway, durable accept and worker are one trace, each the child of the one before",
        [(depth, operation(span)) for depth, span in order] == [(0, "chat"), (1, "publish"), (2, "process")],
    )


def _in_tree(spans: list[Span], parent: str, depth: int = 0) -> list[tuple[int, Span]]:
    found: list[tuple[int, Span]] = []
    for span in sorted(spans, key=lambda one: one["start_ns"]):
        if span["parent_id"] == parent:
            found += [(depth, span), *_in_tree(spans, span["span_id"], depth + 1)]
    return found


def _line(span: Span, origin_ns: int, width: int) -> str:
    start_ms, took_ms = (span["start_ns"] - origin_ns) / 1e6, (span["end_ns"] - span["start_ns"]) / 1e6
    name = f"{span['service']}: {span['name']}"
    return f"{name:<{width}} at {start_ms:8.2f} ms, took {took_ms:8.2f} ms"


def _notes(span: Span) -> list[str]:
    attributes = span["attributes"]
    notes = []
    if "messaging.destination.name" in attributes:
        notes.append(attributes["messaging.destination.name"])
    if "inferbus.queue_s" in attributes:
        notes.append(
            f"waited {attributes['inferbus.queue_s'] * 1000:.2f} ms in the queue, attempt {attributes['inferbus.attempt']}"
        )
    if "inferbus.ttft_s" in attributes:
        notes.append(f"first token after {attributes['inferbus.ttft_s'] * 1000:.2f} ms")
    if attributes.get("gen_ai.usage.output_tokens"):
        notes.append(
            f"{attributes['gen_ai.usage.input_tokens']} tokens in, {attributes['gen_ai.usage.output_tokens']} out"
        )
    return notes
