"""One request is one trace: HTTP, the durable accept, the worker, whoever began it."""

from __future__ import annotations

import secrets

import pytest
from openai import OpenAI
from tests.running_platform import CHAT, RunningPlatform
from tests.traces import operation, spans_of

from inferbus.testing import eventually

QUESTION = [{"role": "user", "content": "Explain open."}]


@pytest.mark.parametrize("stream", [False, True])
async def test_gateway_bus_and_worker_share_a_trace(platform: RunningPlatform, client: OpenAI, stream: bool) -> None:
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    answer = client.chat.completions.create(
        model=CHAT,
        messages=QUESTION,
        max_tokens=10,
        stream=stream,
        extra_headers={"traceparent": f"00-{trace_id}-{parent_id}-01"},
    )
    assert list(answer) if stream else answer
    await eventually(lambda: len(spans_of(platform, trace_id)) == 3)
    spans = {operation(span): span for span in spans_of(platform, trace_id)}
    http, publish, process = spans["chat"], spans["publish"], spans["process"]
    assert http["parent_id"] == parent_id
    assert publish["parent_id"] == http["span_id"]
    assert process["parent_id"] == publish["span_id"]
    assert [span["service"] for span in (http, publish, process)] == ["gateway", "gateway", "llm-worker"]
    assert http["start_ns"] <= publish["start_ns"] < publish["end_ns"] <= http["end_ns"]
    assert publish["start_ns"] < process["start_ns"] < process["end_ns"]
    assert process["attributes"]["messaging.destination.name"] == publish["attributes"]["messaging.destination.name"]
    assert process["attributes"]["gen_ai.usage.output_tokens"] in range(1, 11)
    assert process["attributes"]["inferbus.queue_s"] >= 0
    assert ("inferbus.ttft_s" in process["attributes"]) == stream


async def test_what_the_caller_does_not_sample_leaves_no_span(platform: RunningPlatform, client: OpenAI) -> None:
    unsampled, sampled = secrets.token_hex(16), secrets.token_hex(16)
    for trace_id, flags in ((unsampled, "00"), (sampled, "01")):
        headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"}
        client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=2, extra_headers=headers)
    await eventually(lambda: len(spans_of(platform, sampled)) == 3)
    assert spans_of(platform, unsampled) == []
