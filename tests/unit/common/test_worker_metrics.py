from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from inferbus.contracts.step import Usage
from inferbus.worker.metrics import _DURATION_S, WorkerMetrics

Attempts = list[tuple[str, float, float, int]]
times = st.floats(0, 1000) | st.sampled_from(_DURATION_S)
attempts = st.lists(st.tuples(st.sampled_from(["finished", "cancelled"]), times, times, st.integers(1, 32)))


def by_prometheus(ended: Attempts) -> CollectorRegistry:
    """Count the same with the client library's own metrics."""
    registry = CollectorRegistry()
    finished = Counter(
        "inferbus_worker_requests_total", "Attempts that ended, by outcome", ["pool", "outcome"], registry=registry
    )
    tokens = Counter("inferbus_worker_tokens_total", "Tokens of finished requests", ["pool", "kind"], registry=registry)
    prompt, completion = tokens.labels("p", "prompt"), tokens.labels("p", "completion")
    duration, queued = (
        Histogram(f"inferbus_worker_{what}_seconds", text, ["pool"], buckets=_DURATION_S, registry=registry).labels("p")
        for what, text in (("duration", "From receipt to end"), ("queue", "From storage to receipt"))
    )
    for outcome, duration_s, queued_s, count in ended:
        finished.labels("p", outcome).inc(count)
        prompt.inc(3)
        completion.inc(4)
        duration.observe(duration_s)
        queued.observe(queued_s)
    return registry


def lines(registry: CollectorRegistry) -> list[str]:
    """What is scraped of what every request counts, but for when counting began."""
    text = re.sub(r"(_created\{.*\}) .*", r"\1", generate_latest(registry).decode())
    return [line for line in text.splitlines() if re.search("worker_(requests|tokens|duration|queue_seconds)", line)]


@given(attempts)
def test_says_what_the_client_library_would_say(ended: Attempts) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, "p")
    for outcome, duration_s, queued_s, count in ended:
        metrics.observe(outcome, Usage(3, 4), duration_s, queued_s, count=count)
    assert lines(registry) == lines(by_prometheus(ended))
