"""DuckDbHistory: windowed aggregates, and the newest rows of plain views, over Parquet files.

DuckDB reads, filters, groups and counts; what has to be exact to the last bit (sums of floats, sketches) it only gathers,
and the stream's own code computes it. Rows come in slices by a hash of the entity that stays the same whatever the version,
so that work over them can be begun again at a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import duckdb
import msgspec

from inferbus_features.domain import distinct
from inferbus_features.domain.aggregates import Fold, folds_of
from inferbus_features.domain.definitions import (
    BOOL,
    COUNT,
    DISTINCT,
    FLOAT64,
    INT64,
    LAST,
    MAX,
    MEAN,
    MIN,
    STRING,
    SUM,
    Aggregate,
    Scalar,
    WindowedView,
)  # fmt: skip
from inferbus_features.domain.exact_sum import LARGEST, expansion_of
from inferbus_features.domain.window_state import Plan, WindowValues, window_values

_SQL_TYPES = {INT64: "BIGINT", FLOAT64: "DOUBLE", STRING: "VARCHAR", BOOL: "BOOLEAN"}
_ROWS = 2048


class BadHistory(ValueError):
    """The files cannot be read as what they are said to be; the message names the column."""


class HistoryFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Parquet files (paths or globs), the column of the event's time, and that of its arrival ("": all count)."""

    paths: tuple[str, ...]
    timestamp_column: str = "event_timestamp"
    arrived_column: str = ""


class Slice(msgspec.Struct, frozen=True):
    """The entities whose hash is `n` modulo `of`."""

    n: int = 0
    of: int = 1


WHOLE = Slice()


class DuckDbHistory:
    """One connection, for one thread; use as a context manager. `memory` is how much it may take, as DuckDB writes it."""

    def __init__(self, *, memory: str = "1GB", threads: int = 1) -> None:
        self._db = duckdb.connect(config={"memory_limit": memory, "threads": threads})
        self._db.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def windows(
        self, view: WindowedView, files: HistoryFiles, part: Slice = WHOLE
    ) -> Iterator[tuple[tuple[Scalar, ...], list[WindowValues]]]:
        """Give the windows of each entity of a slice, oldest first: those with events, and the first empty one after.

        Raises:
            BadHistory: the files do not have what the view's source says.
        """
        plan = Plan(view.window, folds_of(view), view.lateness_us)
        keys = len(view.join_keys)
        entity, found = None, list[WindowValues]()
        for row in self._rows(_windows_sql(view, files, part), files):
            if row[:keys] != entity:
                if entity is not None:
                    yield entity, _with_ends(plan, found)
                entity, found = row[:keys], []
            found.append(window_values(plan, row[keys], [_states(view, plan.folds, row[keys + 1 :])]))
        if entity is not None:
            yield entity, _with_ends(plan, found)

    def newest(
        self, keys: dict[str, str], fields: dict[str, str], files: HistoryFiles, part: Slice, until_us: int
    ) -> Iterator[tuple[tuple[Scalar, ...], int, tuple[Scalar, ...]]]:
        """Give the newest row of each entity of a slice up to a time: key, time in microseconds, fields."""
        columns = ", ".join(_column(name, type_) for name, type_ in (keys | fields).items())
        names = ", ".join(map(_quoted, keys))
        sql = (
            f"SELECT {columns}, t FROM ({_events_sql(files, keys, part)}) WHERE t <= {until_us} "  # noqa: S608 - quoted names
            f"QUALIFY row_number() OVER (PARTITION BY {names} ORDER BY t DESC) = 1"
        )
        for row in self._rows(sql, files):
            yield row[: len(keys)], row[-1], row[len(keys) : -1]

    def _rows(self, sql: str, files: HistoryFiles) -> Iterator[tuple[Any, ...]]:
        try:
            cursor = self._db.execute(sql, [list(files.paths)])
            while rows := cursor.fetchmany(_ROWS):
                yield from rows
        except (duckdb.BinderException, duckdb.ConversionException, duckdb.IOException) as exc:
            raise BadHistory(str(exc).splitlines()[0]) from exc


def _with_ends(plan: Plan, found: list[WindowValues]) -> list[WindowValues]:
    """Put the empty window behind each run of windows that have events."""
    ended: list[WindowValues] = []
    for values, after in zip(found, [*found[1:], None], strict=True):
        ended.append(values)
        if after is None or after.last_pane != values.last_pane + 1:
            ended.append(window_values(plan, values.last_pane + 1, []))
    return ended


def _windows_sql(view: WindowedView, files: HistoryFiles, part: Slice) -> str:
    window, keys = view.window, {name: view.source.keys[name] for name in view.join_keys}
    columns = ", ".join(_column(name, type_) for name, type_ in (view.source.keys | view.source.fields).items())
    names = ", ".join(map(_quoted, keys))
    late = ""
    if files.arrived_column:
        late = (
            f"WHERE epoch_us({_quoted(files.arrived_column)}) - t BETWEEN {-view.earliness_us} AND {view.lateness_us}"
        )
    first = f"t // {window.every_us}"
    states = ", ".join(sql for aggregate in view.aggregates for sql in _state_sql(view, aggregate))
    return (
        f"WITH events AS (SELECT {columns}, t FROM ({_events_sql(files, keys, part)}) {late}), "  # noqa: S608 - quoted names
        f"placed AS (SELECT *, unnest(generate_series({first}, {first} + {window.panes - 1})) AS w FROM events) "
        f"SELECT {names}, w, count(*), {states} FROM placed GROUP BY {names}, w ORDER BY {names}, w"
    )


def _events_sql(files: HistoryFiles, keys: dict[str, str], part: Slice) -> str:
    """Select what the files have of a slice's entities, with the event's time in microseconds as `t`."""
    named = [_quoted(name) for name in keys]
    wanted = [f"{name} IS NOT NULL" for name in named]
    if part.of > 1:
        whole = " || chr(0) || ".join(f"CAST({name} AS VARCHAR)" for name in named)
        wanted.append(f"md5_number_lower({whole}) % {part.of} = {part.n}")
    return (
        f"SELECT *, epoch_us({_quoted(files.timestamp_column)}) AS t "  # noqa: S608 - quoted names
        "FROM read_parquet(?, union_by_name = true) "
        f"WHERE {_quoted(files.timestamp_column)} IS NOT NULL AND {' AND '.join(wanted)}"
    )


def _state_sql(view: WindowedView, aggregate: Aggregate) -> list[str]:
    """Select what `_states` makes an aggregate's state of: one or two columns."""
    is_float = bool(aggregate.column) and view.columns[aggregate.column] == FLOAT64
    value = _quoted(aggregate.column) if aggregate.column else "1"
    if is_float:
        value = f"CASE WHEN {value} BETWEEN {-LARGEST!r} AND {LARGEST!r} THEN {value} + 0.0 END"
    where = [f"{_quoted(name)} = {_literal(wanted)}" for name, wanted in aggregate.where.items()]
    only = f" FILTER (WHERE {' AND '.join([f'({value}) IS NOT NULL', *where])})"
    total = f"list({value}){only}" if is_float else f"coalesce(sum({value}){only}, 0)::HUGEINT"
    return {
        COUNT: [f"count({value}){only}"],
        SUM: [total],
        MEAN: [f"count({value}){only}", total],
        MIN: [f"min({value}){only}"],
        MAX: [f"max({value}){only}"],
        LAST: [f"max({{'t': t, 'v': {value}}}){only}"],
        DISTINCT: [f"list(DISTINCT {value}){only}"],
    }[aggregate.kind]


def _states(view: WindowedView, folds: Sequence[Fold], columns: tuple[Any, ...]) -> list[Any]:
    """Make of a row's columns what the stream would keep of the same events."""
    states: list[Any] = [columns[0]]
    at = 1
    for aggregate, fold in zip(view.aggregates, folds, strict=True):
        found, at = columns[at], at + 1
        match aggregate.kind:
            case "sum" if fold.is_float:
                found = expansion_of(found or [])
            case "mean":
                total, at = columns[at], at + 1
                found = [found, expansion_of(total or []) if fold.is_float else total]
            case "min" | "max":
                found = [] if found is None else [found]
            case "last":
                found = [] if found is None else [found["t"], found["v"]]
            case "approx_distinct":
                sketch: distinct.Sketch = {}
                distinct.add(sketch, found or [])
                found = sketch
        states.append(found)
    return states


def _column(name: str, type_: str) -> str:
    return f"CAST({_quoted(name)} AS {_SQL_TYPES[type_]}) AS {_quoted(name)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str | int | bool) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
