from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import Error
from prometheus_client import CollectorRegistry

from inferbus.bus.refusals import RefusalCollector, Refusals, prefix_of


def test_a_violation_is_counted_by_action_and_beginning() -> None:
    registry = CollectorRegistry()
    first, second = Refusals("a"), Refusals("b")
    registry.register(RefusalCollector(first, second))
    assert first.note(Error('nats: permissions violation for publish to "infer.local.x"')) == (
        "publish",
        "infer.local.x",
    )
    assert second.note(Error('nats: Permissions Violation for Publish to "Infer.Other"')) == ("publish", "infer.other")
    assert second.note(Error('nats: permissions violation for subscription to "reply.>" using queue "q"')) == (
        "subscribe", "reply.>",
    )  # fmt: skip
    name = "inferbus_bus_refusals_total"
    assert registry.get_sample_value(name, {"action": "publish", "prefix": "infer"}) == 2
    assert registry.get_sample_value(name, {"action": "subscribe", "prefix": "reply"}) == 1


@pytest.mark.parametrize("text", ["nats: authorization violation", "stale connection", "", "permissions violation"])
def test_something_else_is_not_counted(text: str) -> None:
    refusals = Refusals("a")
    assert refusals.note(Error(text)) is None
    assert refusals.counts == {}


@pytest.mark.parametrize(
    ("subject", "prefix"),
    [
        ("$JS.API.STREAM.DELETE.REQUEST", "$js.api.stream.delete"),
        ("$KV.keys.abc", "$kv.keys"),
        ("_INBOX_gateway.x.1", "_inbox"),
        ("request.acme.m.interactive", "request"),
    ],
)
def test_prefix_has_no_tenant_and_no_id(subject: str, prefix: str) -> None:
    assert prefix_of(subject) == prefix


@given(st.sets(st.integers(0, 10**6), max_size=100))
def test_labels_are_bounded_and_nothing_is_lost(numbers: set[int]) -> None:
    refusals = Refusals("a")
    for number in [*range(60), *numbers]:
        refusals.note(Error(f'nats: permissions violation for publish to "x{number}.y"'))
    assert len(refusals.counts) <= 66
    assert sum(refusals.counts.values()) == 60 + len(numbers)
