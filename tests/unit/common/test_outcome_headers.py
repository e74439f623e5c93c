"""An outcome is its answer's bytes, and headers that any NATS client can read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.durable import Failure, Outcome, headers_of_outcome, outcome_from
from inferbus.contracts.step import Usage
from inferbus.durable.outcomes import failed_outcome
from inferbus.errors import EngineDead, InvalidRequest

outcomes = st.builds(
    Outcome,
    status=st.integers(200, 599),
    usage=st.builds(Usage, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    content_type=st.sampled_from(["application/json", "text/event-stream; charset=utf-8"]),
    body=st.binary(max_size=50),
    streamed=st.just(True),
    deltas=st.integers(0, 10**6),
    story=st.integers(0, 2**31),
    failure=st.none() | st.builds(Failure, st.sampled_from(["cancelled", "engine_dead"]), st.text(max_size=300)),
    ticket=st.sampled_from(["", "t;1;2;3;abc"]),
)


@given(outcomes)
def test_what_is_written_is_read(outcome: Outcome) -> None:
    headers = headers_of_outcome(outcome)
    assert outcome_from(headers, outcome.body) == outcome
    for value in headers.values():
        assert value.isascii()
        assert "\n" not in value
        assert "\r" not in value


@pytest.mark.parametrize("headers", [{}, {"Ib-Status": "200"}, {"Ib-Status": "x", "Ib-Usage": "1,2,3"}])
def test_what_is_not_an_outcome_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="outcome"):
        outcome_from(headers, b"")


def test_a_failure_is_an_error_body_where_nothing_was_streamed() -> None:
    outcome = failed_outcome(EngineDead("it died"), Usage(3, 4))
    assert outcome.status == 503
    assert b'"it died"' in outcome.body
    assert (outcome.usage.completion_tokens, outcome.failure) == (4, Failure("engine_dead", "it died"))
