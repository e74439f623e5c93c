"""Definitions: windowed aggregates as a feature repository declares them, once, for history and stream alike."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from inferbus_features.domain import windows
from inferbus_features.domain.windows import Window

INT64, FLOAT64, STRING, BOOL = "int64", "float64", "string", "bool"
TYPES = (INT64, FLOAT64, STRING, BOOL)
NUMBERS = (INT64, FLOAT64)

COUNT, SUM, MEAN, MIN, MAX, LAST, DISTINCT = "count", "sum", "mean", "min", "max", "last", "approx_distinct"
TAKES: Mapping[str, tuple[str, ...]] = {
    COUNT: TYPES, SUM: NUMBERS, MEAN: NUMBERS, MIN: NUMBERS, MAX: NUMBERS, LAST: TYPES, DISTINCT: (INT64, STRING, BOOL),
}  # fmt: skip
"""The kinds of aggregates, and of what types the column of each may be."""

Scalar: TypeAlias = str | int | float | bool | None

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": windows.SECOND_US, "m": windows.MINUTE_US, "h": windows.HOUR_US, "d": windows.DAY_US}


class BadDefinition(ValueError):
    """A definition contradicts itself or names what there is not; the message says where."""


def span_us(text: str) -> int:
    """Read `90s`, `10m`, `1h` or `7d` as microseconds.

    Raises:
        BadDefinition: it is none of these.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise BadDefinition(f"{text!r} is no span of time: 90s, 10m, 1h, 7d")
    return int(found[1]) * _UNITS[found[2]]


def tumbling(length: str) -> Window:
    """Make windows that follow each other, of a length like `10m`."""
    return windows.tumbling(span_us(length))


def sliding(length: str, every: str) -> Window:
    """Make windows of a length like `1h`, a new one each `5m`."""
    return windows.sliding(span_us(length), span_us(every))


class EventSource(msgspec.Struct, frozen=True, kw_only=True):
    """Events as they are pushed: `keys` and `fields` by name and type, the time in `timestamp_field`."""

    name: str
    keys: dict[str, str]
    fields: dict[str, str]
    timestamp_field: str = "event_timestamp"
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        _check_name("source", self.name)
        if not self.keys:
            raise BadDefinition(f"source {self.name}: no keys")
        for name, type_ in (*self.keys.items(), *self.fields.items()):
            _check_name(f"source {self.name}: field", name)
            if type_ not in TYPES:
                raise BadDefinition(f"source {self.name}: {name} is of type {type_}; there are {', '.join(TYPES)}")
        if twice := set(self.keys) & set(self.fields) or {self.timestamp_field} & ({*self.keys} | {*self.fields}):
            raise BadDefinition(f"source {self.name}: {min(twice)} is declared twice")


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: `kind` of `column` (none: `count` of events), over events whose fields are as in `where`."""

    name: str
    kind: str
    column: str = ""
    where: dict[str, str | int | bool] = {}


class WindowedView(msgspec.Struct, frozen=True, kw_only=True):
    """Aggregates of one source by one entity over one kind of window.

    `keys` are those of the source's that make the entity (none: all). An event counts if it arrived at most
    `allowed_lateness` after its own time and no more than `allowed_earliness` before; whatever order events come in, and
    whenever they are computed, the same ones count.
    """

    name: str
    source: EventSource
    entity: str
    window: Window
    aggregates: tuple[Aggregate, ...]
    keys: tuple[str, ...] = ()
    allowed_lateness: str = "1h"
    allowed_earliness: str = "1m"
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        _check_name("view", self.name)
        span_us(self.allowed_lateness), span_us(self.allowed_earliness)
        if not self.aggregates:
            raise BadDefinition(f"view {self.name}: no aggregates")
        names = [aggregate.name for aggregate in self.aggregates]
        for name in names:
            if names.count(name) > 1 or name in self.source.keys:
                raise BadDefinition(f"view {self.name}: {name} is declared twice")
        for key in self.keys:
            if key not in self.source.keys:
                raise BadDefinition(f"view {self.name}: {self.source.name} has no key {key}")
        for aggregate in self.aggregates:
            self._check(aggregate)

    @property
    def join_keys(self) -> tuple[str, ...]:
        return self.keys or tuple(self.source.keys)

    @property
    def lateness_us(self) -> int:
        return span_us(self.allowed_lateness)

    @property
    def earliness_us(self) -> int:
        return span_us(self.allowed_earliness)

    def type_of(self, aggregate: Aggregate) -> str:
        """Give the type of a feature."""
        if aggregate.kind in (COUNT, DISTINCT):
            return INT64
        return FLOAT64 if aggregate.kind == MEAN else self.columns[aggregate.column]

    @property
    def columns(self) -> dict[str, str]:
        """Give what of an event aggregates may look at, with types."""
        return self.source.fields | self.source.keys

    def is_in_time(self, event_us: int, arrived_us: int) -> bool:
        """Say whether an event counts."""
        return -self.earliness_us <= arrived_us - event_us <= self.lateness_us

    def _check(self, aggregate: Aggregate) -> None:
        at = f"view {self.name}: {aggregate.name}"
        _check_name(f"view {self.name}: feature", aggregate.name)
        if aggregate.kind not in TAKES:
            raise BadDefinition(f"{at}: no kind {aggregate.kind}; there are {', '.join(TAKES)}")
        if not aggregate.column and aggregate.kind != COUNT:
            raise BadDefinition(f"{at}: {aggregate.kind} of which column?")
        for name in (*([aggregate.column] if aggregate.column else []), *aggregate.where):
            if name not in self.columns:
                raise BadDefinition(f"{at}: {self.source.name} has no field {name}")
        if aggregate.column and self.columns[aggregate.column] not in TAKES[aggregate.kind]:
            raise BadDefinition(f"{at}: no {aggregate.kind} of {self.columns[aggregate.column]} ({aggregate.column})")
        for name, wanted in aggregate.where.items():
            if self.columns[name] != {bool: BOOL, int: INT64, str: STRING}[type(wanted)]:
                raise BadDefinition(f"{at}: {name} is {self.columns[name]}, not {wanted!r}")


def _check_name(what: str, name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise BadDefinition(f"{what} {name!r}: a name is lower-case letters, digits and _, and begins with a letter")


def to_record(view: WindowedView) -> dict[str, Any]:
    """Give a view as the catalogue keeps it (`ViewRecord.aggregation`)."""
    record: dict[str, Any] = msgspec.to_builtins(view)
    return record


def from_record(record: dict[str, Any]) -> WindowedView:
    """Read a view from the catalogue.

    Raises:
        BadDefinition: it is none.
    """
    try:
        return msgspec.convert(record, type=WindowedView)
    except msgspec.ValidationError as exc:
        raise BadDefinition(str(exc)) from exc


def fingerprint(view: WindowedView) -> str:
    """Name what decides a view's values: the same for the same view, another for one that was changed."""
    prose = {"description": "", "owner": "", "tags": {}}
    bare = msgspec.structs.replace(view, source=msgspec.structs.replace(view.source, **prose), **prose)
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()[:12]
