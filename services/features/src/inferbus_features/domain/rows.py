"""Rows: what is pushed, checked against what its source is declared as. A row is right as a whole, or refused by a field."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from inferbus.contracts.features import PUSH_VIEW, STREAM_VIEW, Catalogue, FeatureFault
from inferbus_features.domain.definitions import from_record

_LATEST_S = 253_402_300_800.0  # the year 10000


class RowLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How far a row's time may be from its arrival. Seconds."""

    max_future_s: float = 60.0
    max_age_s: float = 366 * 86_400.0


DEFAULT_LIMITS = RowLimits()


class SourceShape(msgspec.Struct, frozen=True, kw_only=True):
    """What rows of a source look like: join keys and fields by kind, and where their time is. `views` are the names of the
    views whose features its fields are, `windows` of those that add them up. `tenants` may push (none: all may)."""

    name: str
    keys: dict[str, str]
    fields: dict[str, str]
    timestamp_field: str
    views: dict[str, tuple[str, ...]] = {}
    windows: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()

    def is_open_to(self, tenant: str) -> bool:
        return not self.tenants or tenant in self.tenants


class CheckedRow(msgspec.Struct, frozen=True):
    """A row as it may be written: its time in Unix seconds, its keys and fields, values of their kinds."""

    time_s: float
    keys: dict[str, Any]
    fields: dict[str, Any]


class BadRow(ValueError):
    """A row that is refused, with the field that is why."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.fault = FeatureFault(code="invalid_request", message=message, param=param)


def shapes_of(catalogue: Catalogue) -> dict[str, SourceShape]:
    """Give the sources rows may be pushed to."""
    shapes: dict[str, SourceShape] = {}
    entities = {entity.name: entity for entity in catalogue.entities}
    sources = {source.name: source for source in catalogue.sources}
    for view in catalogue.views:
        if view.type == STREAM_VIEW:
            declared = from_record(view.aggregation).source
            new = SourceShape(
                name=declared.name, keys=declared.keys, fields=declared.fields,
                timestamp_field=declared.timestamp_field, windows=(view.name,), tenants=tenants_of(declared.tags),
            )  # fmt: skip
        elif view.type == PUSH_VIEW:
            names, source = tuple(feature.name for feature in view.features), sources.get(view.source)
            new = SourceShape(
                name=view.source, keys={entities[name].join_key: entities[name].kind for name in view.entities},
                fields={feature.name: feature.kind for feature in view.features},
                timestamp_field=(source.timestamp_field if source is not None else "") or "event_timestamp",
                views={view.name: names}, tenants=tenants_of(source.tags) if source is not None else (),
            )  # fmt: skip
        else:
            continue
        shapes[new.name] = _joined(shapes[new.name], new) if new.name in shapes else new
    return shapes


def tenants_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Give who may push to a source with these tags: `tenants`, with commas between."""
    return tuple(one.strip() for one in tags.get("tenants", "").split(",") if one.strip())


def _joined(one: SourceShape, other: SourceShape) -> SourceShape:
    return msgspec.structs.replace(
        one, keys=one.keys | other.keys, fields=one.fields | other.fields, views=one.views | other.views,
        windows=one.windows + other.windows,
    )  # fmt: skip


def check_row(shape: SourceShape, row: Mapping[str, Any], arrived_s: float, limits: RowLimits) -> CheckedRow:
    """Check a row that arrived at a time (Unix seconds).

    Raises:
        BadRow: it is refused.
    """
    keys: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    time_s = None
    for name, value in row.items():
        if (kind := shape.keys.get(name)) is not None:
            if value is not None:
                keys[name] = _value(name, kind, value)
        elif (kind := shape.fields.get(name)) is not None:
            fields[name] = None if value is None else _value(name, kind, value)
        elif name == shape.timestamp_field:
            time_s = _time(name, value)
        else:
            raise BadRow(name, f"{shape.name} has no field {name!r}; it has {', '.join((*shape.keys, *shape.fields))}")
    for name in shape.keys:
        if name not in keys:
            raise BadRow(name, f"the key {name!r} is missing")
    if time_s is None:
        raise BadRow(shape.timestamp_field, f"the time of the row, {shape.timestamp_field!r}, is missing")
    if time_s > arrived_s + limits.max_future_s:
        raise BadRow(
            shape.timestamp_field,
            f"{shape.timestamp_field}: {_shown(time_s)} is {time_s - arrived_s:.0f} s in the future; "
            f"at most {limits.max_future_s:.0f} s are allowed",
        )
    if time_s < arrived_s - limits.max_age_s:
        raise BadRow(
            shape.timestamp_field,
            f"{shape.timestamp_field}: {_shown(time_s)} is {(arrived_s - time_s) / 86_400:.0f} days old; "
            f"at most {limits.max_age_s / 86_400:.0f} days are allowed",
        )
    return CheckedRow(time_s, keys, fields)


def _value(name: str, kind: str, value: Any) -> Any:
    if kind.startswith("list<"):
        if not isinstance(value, list):
            raise BadRow(name, f"{name}: {_told(value)} is no {kind}")
        return [_value(name, kind[5:-1], item) for item in value]
    read = _READERS.get(kind)
    if read is None:
        raise BadRow(name, f"{name}: values of kind {kind} cannot be pushed")
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError, binascii.Error):
        raise BadRow(name, f"{name}: {_told(value)} is no {kind}") from None


def _int_of(bits: int) -> Callable[[Any], int]:
    lowest, highest = -(1 << bits), (1 << bits) - 1

    def read(value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise TypeError
        return value

    return read


def _float(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return float(value)


def _exactly(type_: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not type_:
            raise TypeError
        return value

    return read


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value, validate=True)


def _time(name: str, value: Any) -> float:
    """Read a time: Unix seconds, or ISO 8601 (UTC unless it says otherwise)."""
    if type(value) is int or type(value) is float:
        if not 0 <= value < _LATEST_S:
            raise BadRow(name, f"{name}: {value} are no Unix seconds" + (" (milliseconds?)" if value > 0 else ""))
        return float(value)
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise BadRow(name, f"{name}: {_told(value)} is no time: Unix seconds, or ISO 8601") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


_READERS: dict[str, Callable[[Any], Any]] = {
    "int32": _int_of(31), "int64": _int_of(63), "float32": _float, "float64": _float, "string": _exactly(str),
    "bool": _exactly(bool), "bytes": _bytes, "timestamp": lambda value: _time("timestamp", value),
}  # fmt: skip


def _told(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _shown(time_s: float) -> str:
    return datetime.fromtimestamp(min(time_s, _LATEST_S - 1), tz=UTC).isoformat(timespec="seconds")
