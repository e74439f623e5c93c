"""Tracing: who is sampled, and whose child a span is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry.trace import SpanKind

from inferbus.settings import TelemetrySettings
from inferbus.telemetry.tracing import Tracing, context_from, end_span, traceparent_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


def tracing(path: Path, ratio: float) -> Tracing:
    return Tracing("test", TelemetrySettings(sample_ratio=ratio, trace_file=str(path)))


def spans(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_without_an_exporter_there_are_no_spans() -> None:
    off = Tracing("test", TelemetrySettings(sample_ratio=1.0))
    assert not off.enabled
    assert off.begin("x", PARENT, SpanKind.SERVER, {}, root=True) is None
    off.close()


@pytest.mark.parametrize(
    ("ratio", "traceparent", "root", "sampled"),
    [
        (1.0, "", True, True),
        (0.0, "", True, False),
        (1.0, "", False, False),
        (1.0, "rubbish", True, True),
        (0.0, PARENT, True, True),
        (0.0, PARENT, False, True),
        (1.0, UNSAMPLED, True, False),
        (1.0, UNSAMPLED, False, False),
    ],
)
def test_the_one_before_decides_and_the_first_by_ratio(
    tmp_path: Path, ratio: float, traceparent: str, root: bool, sampled: bool
) -> None:
    path = tmp_path / "traces.jsonl"
    some = tracing(path, ratio)
    span = some.begin("x", traceparent, SpanKind.SERVER, {"a": 1}, root=root)
    assert (span is not None) is sampled
    end_span(span, {"b": 2})
    some.close()
    assert len(spans(path)) == sampled


def test_a_span_is_its_parent_s_child_and_the_next_one_s_parent(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    some = tracing(path, 0.0)
    first = some.begin("first", PARENT, SpanKind.SERVER, {})
    second = some.begin("second", traceparent_of(first), SpanKind.CONSUMER, {})
    end_span(second, {}, ValueError("broken"))
    end_span(first, {"status": 200})
    some.close()
    found = {span["name"]: span for span in spans(path)}
    assert found["first"]["trace_id"] == found["second"]["trace_id"] == PARENT.split("-")[1]
    assert found["first"]["parent_id"] == PARENT.split("-")[2]
    assert found["second"]["parent_id"] == found["first"]["span_id"]
    assert found["second"]["status"] == "ERROR"
    assert found["second"]["attributes"] == {"error.type": "ValueError"}
    assert found["first"]["attributes"] == {"status": 200}
    assert found["first"]["service"] == "test"


def test_without_a_span_the_traceparent_goes_on_unchanged() -> None:
    assert traceparent_of(None, UNSAMPLED) == UNSAMPLED
    assert traceparent_of(None) == ""


@pytest.mark.parametrize(
    "header",
    ["", "00", "00-x-y-z", "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT.replace("0af7", "zzzz"), PARENT[:-1]],
)
def test_malformed_trace_contexts_are_none(header: str) -> None:
    assert context_from(header) is None


def test_later_versions_may_have_more_fields() -> None:
    context = context_from("cc" + PARENT[2:] + "-more")
    assert context is not None
    assert context.trace_flags.sampled
