"""The judge of `benchmarks/gateway_kills.py`: it must see what it is there to see."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbus.contracts.usage import AMENDED, UsageEvent
from inferbus_bench.limit_judge import SLACK_S, WINDOW_S, Given, given_of, over, unused

EVENT = UsageEvent(
    request_id="r1", tenant="t", key_id="k", team="", user="", model="m", pool="m", version="", task="chat",
    lane="interactive", prompt_tokens=10, completion_tokens=5, cached_tokens=4, queue_s=1.5, engine_s=0.5, cost=0,
    price_version="", outcome="finished", trace_id="", at=602.0,
)  # fmt: skip


def tokens(one: Given) -> int:
    return one.tokens


def test_events_count_when_they_were_stored_and_with_what_was_wasted() -> None:
    lost = msgspec.structs.replace(
        EVENT, request_id="r2", outcome="abandoned", prompt_tokens=0, completion_tokens=0, wasted_tokens=12
    )
    assert given_of([EVENT, lost]) == [Given(600.0, 15), Given(600.0, 12)]


def test_an_amendment_counts_where_its_request_does() -> None:
    more = msgspec.structs.replace(
        EVENT, outcome=AMENDED, requests=0, prompt_tokens=0, completion_tokens=7, at=680.0, queue_s=0.0
    )
    assert given_of([more, EVENT]) == [Given(600.0, 15), Given(600.0, 7, 0)]


def test_a_window_that_was_given_too_much_is_seen() -> None:
    assert over([Given(630.0, 60), Given(640.0, 41)], tokens, 100) == 1
    assert over([Given(630.0, 60), Given(640.0, 40)], tokens, 100) == 0
    assert over([], tokens, 100) == 0


def test_what_was_stored_just_after_the_edge_may_be_of_the_window_before() -> None:
    late = Given(10 * WINDOW_S + SLACK_S / 2, 50)
    assert over([late, Given(630.0, 100)], tokens, 100) == 0
    assert over([late, Given(630.0, 100), Given(590.0, 51)], tokens, 100) == 1  # the two together hold 200
    assert over([late, Given(630.0, 101)], tokens, 100) == 1
    assert over([late, Given(630.0, 51)], tokens, 100, not_before=10) == 1  # nobody asked before


def test_what_is_left_is_told_for_every_window_asked_for() -> None:
    found = unused([Given(630.0, 95), Given(700.0, 20)], tokens, 100, [10, 12])
    assert [(one.window, one.given, round(one.share, 2)) for one in found] == [(10, 95, 0.05), (12, 0, 1.0)]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(600, 840), st.floats(0, SLACK_S), st.integers(1, 30)), max_size=60
    ),
    st.integers(1, 200),
)  # fmt: skip
def test_who_keeps_the_limit_is_never_found_over_it(wishes: list[tuple[float, float, int]], limit: int) -> None:
    used: dict[int, int] = {}
    kept = []
    for reserved_s, later_s, amount in wishes:
        window = int(reserved_s // WINDOW_S)
        if used.get(window, 0) + amount <= limit:
            used[window] = used.get(window, 0) + amount
            kept.append(Given(reserved_s + later_s * 0.99, amount))
    assert over(kept, tokens, limit) == 0
