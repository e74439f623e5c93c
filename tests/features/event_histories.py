"""Histories of events for tests, and the same events as the stream and as Parquet files have them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inferbus_features.domain.aggregates import Event, folds_of
from inferbus_features.domain.definitions import (
    Aggregate,
    EventSource,
    Scalar,
    WindowedView,
    sliding,
    tumbling,
)  # fmt: skip
from inferbus_features.domain.window_state import Plan, WindowState, WindowValues

BEGIN_US = 1_800_000_000_000_000
CLICKS = EventSource(
    name="clicks",
    keys={"user_id": "int64"},
    fields={"item": "string", "amount": "float64", "units": "int64", "mobile": "bool"},
)
AGGREGATES = (
    Aggregate(name="events", kind="count"),
    Aggregate(name="mobile_events", kind="count", where={"mobile": True}),
    Aggregate(name="spent", kind="sum", column="amount"),
    Aggregate(name="units", kind="sum", column="units"),
    Aggregate(name="mean_amount", kind="mean", column="amount", where={"item": "a"}),
    Aggregate(name="mean_units", kind="mean", column="units"),
    Aggregate(name="least", kind="min", column="amount"),
    Aggregate(name="most_units", kind="max", column="units"),
    Aggregate(name="last_item", kind="last", column="item"),
    Aggregate(name="last_amount", kind="last", column="amount"),
    Aggregate(name="items", kind="approx_distinct", column="item"),
)
TUMBLING = WindowedView(
    name="clicks_10s", source=CLICKS, entity="user", window=tumbling("10s"), aggregates=AGGREGATES,
    allowed_lateness="30s", allowed_earliness="5s",
)  # fmt: skip
SLIDING = WindowedView(
    name="clicks_30s", source=CLICKS, entity="user", window=sliding("30s", "5s"), aggregates=AGGREGATES,
    allowed_lateness="30s", allowed_earliness="5s",
)  # fmt: skip

Arrival = tuple[int, int, dict[str, Scalar]]
"""When an event arrived, when it happened (microseconds), and its fields, the key's too."""
Told = dict[tuple[int, int], WindowValues]
"""What came out last of each entity and window."""


def some_arrivals(seed: int, count: int, users: int = 5, late: float = 0.2) -> list[Arrival]:
    """Draw events in the order of their arrival: out of order, some too late, some ahead of time, some without values."""
    draw = random.Random(seed)
    arrivals = []
    for n in range(count):
        arrived = BEGIN_US + n * draw.randrange(1, 150_000)
        delay = (
            draw.choice([35, 60, 31, 29]) * 1_000_000 if draw.random() < late else draw.randrange(-6_000_000, 9_000_000)
        )
        fields: dict[str, Scalar] = {
            "user_id": draw.randrange(users),
            "item": draw.choice(["a", "b", "ü", "😀", None, f"i{draw.randrange(50)}"]),
            "amount": draw.choice([0.1, -0.0, 1e16, -1e16, 1e-9, None, draw.random(), float("nan"), float("inf")]),
            "units": draw.choice([1, -5, None, 2**53 + 1]),
            "mobile": draw.choice([True, False, None]),
        }
        arrivals.append((arrived, arrived - delay, fields))
    arrivals.sort(key=lambda one: one[0])
    return arrivals


def write_parquet(path: Path, arrivals: Sequence[Arrival]) -> None:
    times = pa.timestamp("us", tz="UTC")
    columns = {name: [fields[name] for _, _, fields in arrivals] for name in (*CLICKS.keys, *CLICKS.fields)}
    types = {"int64": pa.int64(), "string": pa.string(), "float64": pa.float64(), "bool": pa.bool_()}
    schema = [(name, types[(CLICKS.keys | CLICKS.fields)[name]]) for name in columns]
    columns["arrived"] = [arrived for arrived, _, _ in arrivals]
    columns["event_timestamp"] = [time for _, time, _ in arrivals]
    table = pa.table(columns, schema=pa.schema([*schema, ("arrived", times), ("event_timestamp", times)]))
    pq.write_table(table, path)


def through_states(view: WindowedView, arrivals: Iterable[Arrival], *, batch: int = 7, restart_every: int = 0) -> Told:
    """Let events go through the stream's state as they arrive; with `restart_every`, through what is stored of it too."""
    plan = Plan(view.window, folds_of(view), view.lateness_us)
    states: dict[int, WindowState] = {}
    told: Told = {}
    arrivals = list(arrivals)
    for n in range(0, len(arrivals), batch):
        for arrived, time, fields in arrivals[n : n + batch]:
            if view.is_in_time(time, arrived):
                state = states.setdefault(int(fields["user_id"] or 0), WindowState(plan))
                state.take([Event(time, fields)])
        now = arrivals[min(n + batch, len(arrivals)) - 1][0]
        _tell(states, told, now)
        if restart_every and n % restart_every == 0:
            states = {user: WindowState.from_stored(plan, state.to_stored()) for user, state in states.items()}
    _tell(states, told, BEGIN_US + 10**15)
    assert all(state.is_empty for state in states.values())
    return told


def _tell(states: dict[int, WindowState], told: Told, now: int) -> None:
    for user, state in states.items():
        for values in state.due(now):
            before = told.get((user, values.last_pane))
            assert before is None or before.timestamp_us < values.timestamp_us or before == values
            told[user, values.last_pane] = values
        state.forget(now)
