"""Aggregates: what is kept of some events for one feature, put together and turned into its value.

The state of a kind is the same however its events were ordered and grouped: sums are exact, `last` is the greatest of
(time, value), the sketch of different values is a maximum. History computes states of whole windows at once, the stream
builds them event by event; both end in `value_of`. A state is made of plain lists, numbers and texts, to be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from inferbus_features.domain import distinct
from inferbus_features.domain.definitions import (
    COUNT,
    DISTINCT,
    FLOAT64,
    LAST,
    MAX,
    MEAN,
    MIN,
    SUM,
    Aggregate,
    Scalar,
    WindowedView,
)  # fmt: skip
from inferbus_features.domain.exact_sum import LARGEST, expansion_of, rounded

State: TypeAlias = Any
"""What a kind keeps; only the functions of its row look inside."""

INT64_LOWEST, INT64_HIGHEST = -(2**63), 2**63 - 1


class Event(msgspec.Struct, frozen=True):
    """One event of an entity: its time in microseconds, its fields (a field may be missing or None)."""

    time_us: int
    fields: Mapping[str, Scalar]


class Kind(msgspec.Struct, frozen=True):
    """How a kind of aggregate is computed: `fold` adds (time, value) pairs to a state, `merge` a later state to it."""

    empty: Callable[[], State]
    fold: Callable[[State, Sequence[tuple[int, Any]]], State]
    merge: Callable[[State, State], State]
    value: Callable[[State], Scalar]


class Fold(msgspec.Struct, frozen=True):
    """One aggregate of a view, ready to be computed."""

    name: str
    column: str
    where: tuple[tuple[str, str | int | bool], ...]
    is_float: bool
    kind: Kind

    def pick(self, events: Sequence[Event]) -> list[tuple[int, Any]]:
        """Give time and value of the events that count for this feature."""
        where, column = self.where, self.column
        if where:
            events = [one for one in events if all(one.fields.get(name) == wanted for name, wanted in where)]
        if not column:
            return [(one.time_us, 1) for one in events]
        found = [(one.time_us, one.fields.get(column)) for one in events]
        if self.is_float:
            return [(time, number) for time, value in found if (number := number_of(value)) is not None]
        return [(time, value) for time, value in found if value is not None]


def folds_of(view: WindowedView) -> tuple[Fold, ...]:
    """Make ready the aggregates of a view, in their order."""
    return tuple(_fold_of(view, aggregate) for aggregate in view.aggregates)


def _fold_of(view: WindowedView, aggregate: Aggregate) -> Fold:
    is_float = bool(aggregate.column) and view.columns[aggregate.column] == FLOAT64
    kinds = KINDS_OF_FLOATS if is_float else KINDS
    where = tuple(aggregate.where.items())
    return Fold(aggregate.name, aggregate.column, where, is_float, kinds[aggregate.kind])


def number_of(value: Scalar) -> float | None:
    """Give a float that may be computed with; None where there is none (missing, not finite, beyond `LARGEST`)."""
    if type(value) is not float:
        if not isinstance(value, (int, float)):
            return None
        value = float(value)
    number = value + 0.0  # there is one zero
    return number if -LARGEST <= number <= LARGEST else None


def _int64(number: int) -> int:
    """Keep a sum within what a feature's type holds."""
    return min(max(number, INT64_LOWEST), INT64_HIGHEST)


def _best(pick: Callable[[Any], Any]) -> Kind:
    """Give the kind whose state is the `pick` (min, max) of all values, in a list; an empty list where there are none."""
    return Kind(
        empty=list,
        fold=lambda state, found: [pick([*state, *(value for _, value in found)])] if found else state,
        merge=lambda one, other: [pick([*one, *other])] if one or other else [],
        value=lambda state: state[0] if state else None,
    )


def _fold_distinct(state: State, found: Sequence[tuple[int, Any]]) -> State:
    distinct.add(state, (value for _, value in found))
    return state


def _merge_distinct(one: State, other: State) -> State:
    both = dict(one)
    distinct.merge(both, other)
    return both


def _mean_of_floats(state: State) -> float | None:
    return rounded(state[1]) / state[0] if state[0] else None


KINDS: dict[str, Kind] = {
    COUNT: Kind(lambda: 0, lambda state, found: state + len(found), lambda one, other: one + other, _int64),
    SUM: Kind(
        lambda: 0, lambda state, found: state + sum(value for _, value in found), lambda one, other: one + other, _int64
    ),
    MEAN: Kind(
        lambda: [0, 0],
        lambda state, found: [state[0] + len(found), state[1] + sum(value for _, value in found)],
        lambda one, other: [one[0] + other[0], one[1] + other[1]],
        lambda state: state[1] / state[0] if state[0] else None,
    ),
    MIN: _best(min),
    MAX: _best(max),
    LAST: Kind(
        empty=list,
        fold=lambda state, found: max([state, *map(list, found)]),  # an empty list is less than any other
        merge=max,
        value=lambda state: state[1] if state else None,
    ),
    DISTINCT: Kind(dict, _fold_distinct, _merge_distinct, distinct.estimate),
}

KINDS_OF_FLOATS: dict[str, Kind] = KINDS | {
    SUM: Kind(
        list,
        lambda state, found: expansion_of([*state, *(value for _, value in found)]),
        lambda one, other: expansion_of([*one, *other]),
        rounded,
    ),
    MEAN: Kind(
        lambda: [0, []],
        lambda state, found: [state[0] + len(found), expansion_of([*state[1], *(value for _, value in found)])],
        lambda one, other: [one[0] + other[0], expansion_of([*one[1], *other[1]])],
        _mean_of_floats,
    ),
}
"""Where the column is of floats."""
