"""The canonical line, the metrics, the span: one of each per request, from the same facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from tests.unit.gateway.fakes import Door

from inferbus.settings import TelemetrySettings
from inferbus.telemetry.tracing import Tracing

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "secret prompt"}], "stream": True}
LABELS = {"path": CHAT, "model": "inferbus-tiny"}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"inferbus_gateway_{name}", labels)


async def stream_one(door: Door) -> None:
    call = door.post(CHAT, HELLO)
    engine = await door.admitter.next()
    engine.begin()
    engine.chunk(b"data: 1\n\n")
    await call.until(lambda call: len(call.pieces) == 1)
    assert value(door.registry, "open_requests") == value(door.registry, "open_streams") == 1
    engine.finish()
    await call.done()


async def test_every_request_ends_in_one_line_without_its_prompt() -> None:
    with capture_logs() as lines:
        await stream_one(Door())
    [line] = lines
    assert line.pop("duration_ms") >= line.pop("ttft_ms") >= 0
    assert len(line.pop("request_id")) == 32
    assert line == {
        "event": "request_finished",
        "log_level": "info",
        "tenant": "dev",
        "model": "inferbus-tiny",
        "path": CHAT,
        "status": 200,
        "streamed": True,
        "phase": "done",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "error": None,
    }


async def test_metrics_count_by_path_model_and_status(door: Door) -> None:
    await stream_one(door)
    await stream_one(door)
    await door.post(CHAT, HELLO | {"model": "made-up-" + "x" * 500}).done()
    await door.post(CHAT, b"{").done()
    assert value(door.registry, "requests_total", **LABELS, status="200") == 2
    assert value(door.registry, "requests_total", path=CHAT, model="unknown", status="404") == 1
    assert value(door.registry, "requests_total", path=CHAT, model="unknown", status="400") == 1
    assert value(door.registry, "ttft_seconds_count", **LABELS) == 2
    assert value(door.registry, "duration_seconds_count", **LABELS) == 2
    assert value(door.registry, "tokens_total", model="inferbus-tiny", kind="completion") == 4
    assert value(door.registry, "open_requests") == value(door.registry, "open_streams") == 0
    call = await door.call("GET", "/metrics", b"", {}).done()
    assert call.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert (
        b'inferbus_gateway_requests_total{model="inferbus-tiny",path="/v1/chat/completions",status="200"} 2.0'
        in call.body
    )


async def test_the_other_paths_are_written_down_by_route_and_probes_are_not() -> None:
    with capture_logs() as lines:
        door = Door()
        for path in ("/v1/models/tiny", "/v1/nothing/at/all", "/health/ready", "/metrics"):
            call = await door.get(path, **{"x-request-id": "mine-2"}).done()
            assert ("x-request-id" in call.headers) == path.startswith("/v1")
    written = [(line["path"], line["status"], line["request_id"]) for line in lines]
    assert written == [("/v1/models/{model_id}", 200, "mine-2"), ("unmatched", 404, "mine-2")]


async def test_a_sampled_request_becomes_the_parent_of_its_work(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    tracing = Tracing("gateway", TelemetrySettings(trace_file=str(file)))
    door = Door(tracing=tracing)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    call = door.post(CHAT, HELLO, traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    engine = await door.admitter.next()
    engine.begin()
    engine.finish(200, b"")
    await call.done()
    unsampled = f"00-{trace_id}-b7ad6b7169203331-00"
    call = door.post(CHAT, HELLO, traceparent=unsampled)
    other = await door.admitter.next()
    other.finish(200, b"")
    await call.done()
    tracing.close()
    [span] = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert engine.ask.traceparent == f"00-{trace_id}-{span['span_id']}-01"
    assert other.ask.traceparent == unsampled, "what is not sampled here keeps its context for those who come next"
    assert span["parent_id"] == "b7ad6b7169203331"
    assert span["name"] == "chat inferbus-tiny"
    assert span["attributes"]["gen_ai.usage.output_tokens"] == 2
    assert span["attributes"]["http.response.status_code"] == 200
