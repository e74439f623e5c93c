"""Aggregates are the same whatever order and grouping their events come in."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus_features.domain import distinct
from inferbus_features.domain.aggregates import Event, folds_of
from inferbus_features.domain.definitions import (
    TAKES,
    Aggregate,
    BadDefinition,
    EventSource,
    WindowedView,
    fingerprint,
    from_record,
    sliding,
    span_us,
    to_record,
    tumbling,
)
from inferbus_features.domain.exact_sum import LARGEST, expansion_of, rounded
from inferbus_features.domain.windows import BadWindow, Window

SOURCE = EventSource(
    name="s", keys={"user_id": "int64"}, fields={"x": "float64", "n": "int64", "t": "string", "b": "bool"}
)
COLUMNS = {"x": "float64", "n": "int64", "t": "string", "b": "bool"}
ALL = tuple(
    Aggregate(name=f"{kind}_{column}", kind=kind, column=column, where={"b": True} if column == "n" else {})
    for kind, types in TAKES.items()
    for column, type_ in COLUMNS.items()
    if type_ in types
)
VIEW = WindowedView(name="v", source=SOURCE, entity="user", window=sliding("10s", "2s"), aggregates=ALL)
floats = st.floats(min_value=-LARGEST, max_value=LARGEST) | st.sampled_from([0.1, -0.1, 1e16, -1e16, 1e-300, -0.0])
events = st.lists(
    st.builds(
        Event,
        time_us=st.integers(0, 5),
        fields=st.fixed_dictionaries({
            "x": st.none() | floats | st.just(math.nan) | st.just(math.inf),
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "t": st.none() | st.sampled_from(["", "a", "b", "ü", "😀"]),
            "b": st.none() | st.booleans(),
        }),
    ),
    max_size=12,
)  # fmt: skip


@given(st.lists(floats, max_size=30), st.randoms(use_true_random=False))
def test_a_sum_is_exact_in_any_order(values: list[float], draw: random.Random) -> None:
    state: list[float] = []
    shuffled = list(values)
    draw.shuffle(shuffled)
    while shuffled:
        count = draw.randrange(1, 4)
        state, shuffled = expansion_of([*state, *shuffled[:count]]), shuffled[count:]
    assert sum(map(Fraction, state), Fraction(0)) == sum(map(Fraction, values), Fraction(0))
    assert rounded(state) == math.fsum(values)


@given(events, st.randoms(use_true_random=False))
def test_grouping_and_order_change_no_value(found: list[Event], draw: random.Random) -> None:
    folds = folds_of(VIEW)
    whole = [fold.kind.value(fold.kind.fold(fold.kind.empty(), fold.pick(found))) for fold in folds]
    shuffled = list(found)
    draw.shuffle(shuffled)
    cut = draw.randrange(len(shuffled) + 1)
    parts = [
        fold.kind.value(
            fold.kind.merge(
                fold.kind.fold(fold.kind.empty(), fold.pick(shuffled[:cut])),
                fold.kind.fold(fold.kind.empty(), fold.pick(shuffled[cut:])),
            )
        )
        for fold in folds
    ]
    assert repr(parts) == repr(whole)


@pytest.mark.parametrize("count", [0, 1, 10, 100, 1_000, 20_000, 300_000])
def test_a_sketch_is_about_right(count: int) -> None:
    sketch: distinct.Sketch = {}
    distinct.add(sketch, range(count))
    before = dict(sketch)
    distinct.add(sketch, range(0, count, 7))
    assert sketch == before
    assert distinct.estimate(sketch) == pytest.approx(count, rel=0.05, abs=0.5)


def test_texts_and_numbers_are_different_values() -> None:
    sketch: distinct.Sketch = {}
    distinct.add(sketch, [1, "1", True, 0, False, "0"])
    assert distinct.estimate(sketch) == 6


def test_a_value_of_more_events_is_newer_and_of_a_later_window_newer_still() -> None:
    window = tumbling("1s")
    assert window.timestamp_of(5, 3) < window.timestamp_of(5, 4) < window.timestamp_of(6, 0)
    assert window.timestamp_of(5, 10**9) < window.timestamp_of(6, 0)


@given(st.integers(0, 10**16), st.sampled_from([tumbling("7s"), sliding("1m", "10s"), sliding("1h", "1m")]))
def test_an_event_is_in_every_window_around_it(time_us: int, window: Window) -> None:
    held = window.holding(window.pane_of(time_us))
    assert len(held) == window.panes
    for last in held:
        end = window.begin_of(last + 1)
        assert end - window.length_us <= time_us < end


@pytest.mark.parametrize(
    "make", [lambda: sliding("10s", "3s"), lambda: sliding("2d", "1s"), lambda: sliding("1s", "2s")]
)
def test_windows_that_cannot_be(make: object) -> None:
    with pytest.raises(BadWindow):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"aggregates": ()}, "no aggregates"),
        ({"aggregates": (Aggregate(name="a", kind="median", column="x"),)}, "median"),
        ({"aggregates": (Aggregate(name="a", kind="sum", column="t"),)}, "no sum of string"),
        ({"aggregates": (Aggregate(name="a", kind="sum", column="nothing"),)}, "nothing"),
        ({"aggregates": (Aggregate(name="a", kind="count", where={"n": "x"}),)}, "n is int64"),
        ({"aggregates": (Aggregate(name="user_id", kind="count"),)}, "user_id"),
        ({"allowed_lateness": "soon"}, "soon"),
        ({"keys": ("item_id",)}, "item_id"),
    ],
)
def test_a_definition_that_cannot_be_says_why(change: dict[str, object], word: str) -> None:
    given = {"name": "v", "source": SOURCE, "entity": "user", "window": tumbling("1m"), "aggregates": ALL} | change
    with pytest.raises(BadDefinition, match=word):
        WindowedView(**given)  # type: ignore[arg-type]


def test_a_definition_is_kept_and_told_from_another() -> None:
    assert from_record(to_record(VIEW)) == VIEW
    described = from_record(to_record(VIEW) | {"description": "new", "owner": "ann"})
    assert fingerprint(described) == fingerprint(VIEW)
    assert fingerprint(from_record(to_record(VIEW) | {"allowed_lateness": "2h"})) != fingerprint(VIEW)
    assert span_us("90s") == 90_000_000
