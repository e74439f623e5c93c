"""Rows of the totals: adding up is exact, whatever is read twice, in whichever pages."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferbus.cli.money import micro_units, money
from inferbus.contracts.usage import FIGURES, Figures, Total, UsageEvent
from inferbus.errors import InvalidRequest
from inferbus.ledger.reading import Query, check_query, sum_up
from inferbus.ledger.rows import add, by_row, day_of, empty_row, key_of_row, row_key, summed

BASE = UsageEvent(
    request_id="r", tenant="dev", key_id="k", team="", user="", model="m", pool="m", version="", task="chat",
    lane="interactive", prompt_tokens=1, completion_tokens=2, cached_tokens=0, queue_s=0.0, engine_s=0.0, cost=3,
    price_version="", outcome="finished", trace_id="", at=1763750001.5,
)  # fmt: skip
numbers = st.integers(-5, 50)
an_event = st.builds(
    lambda team, model, at, cost, tokens: msgspec.structs.replace(
        BASE, team=team, model=model, at=at, cost=cost, completion_tokens=tokens
    ),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(["m", "org/m", "org_m"]),
    st.floats(1.7e9, 1.7e9 + 3 * 86_400),
    numbers,
    numbers,
)


@settings(deadline=None)
@given(st.lists(an_event, max_size=40), st.data())
def test_pages_read_twice_and_in_any_size_are_added_once(found: list[UsageEvent], data: st.DataObject) -> None:
    numbered = list(enumerate(found, 1))
    rows: dict[str, Total] = {}
    place = 0
    while place < len(numbered):
        start = data.draw(st.integers(0, place), label="read again from")
        end = data.draw(st.integers(place + 1, len(numbered)), label="to")
        for key, events in by_row(numbered[start:end]).items():
            rows[key] = add(rows.get(key, empty_row(events[0][1])), events)
        place = end
    assert summed(rows.values()) == sum((event.figures for event in found), Figures())
    assert set(rows) == {row_key(event) for event in found}
    for row in rows.values():
        assert rows[key_of_row(row)] is row


@settings(deadline=None)
@given(st.lists(an_event, max_size=30), st.lists(st.sampled_from(["org", "team", "key", "model", "day"]), unique=True))
def test_sums_by_any_dimensions_have_the_same_total(found: list[UsageEvent], by: list[str]) -> None:
    groups = by_row(enumerate(found, 1))
    rows = [add(empty_row(events[0][1]), events) for events in groups.values()]
    lines = sum_up(rows, Query(by=tuple(by)))
    assert sum((line.figures for line in lines), Figures()) == summed(rows)


def test_names_of_rows_are_keys_of_a_bucket() -> None:
    assert row_key(BASE) == "dev.2025-11-21.=.k.m"
    assert row_key(msgspec.structs.replace(BASE, team="a b", model="org/m:1")) == "dev.2025-11-21.a_b.k.org_m_1"
    assert day_of(1763769599.9) == "2025-11-21"
    assert day_of(1763769600.0) == "2025-11-22"


def test_figures_are_those_of_the_event() -> None:
    assert set(FIGURES) == set(Figures.__struct_fields__)
    assert set(FIGURES) <= set(UsageEvent.__struct_fields__)
    assert BASE.figures - BASE.figures == Figures()
    assert not Figures()
    assert BASE.figures


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (Query(by=("user",)), "by"),
        (Query(first="x"), "from"),
        (Query(last="2026-1-1"), "to"),
        (Query(org="A.B"), "org"),
    ],
)
def test_what_cannot_be_asked_is_refused(query: Query, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_query(query)
    assert refused.value.param == param


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_money_is_read_as_it_is_written(micro: int) -> None:
    assert micro_units(money(micro), field="x") == micro


def test_money_looks_like_money() -> None:
    assert [money(amount) for amount in (0, 1, 150_000, 1_500_000, -25)] == [
        "0.00",
        "0.000001",
        "0.15",
        "1.50",
        "-0.000025",
    ]
