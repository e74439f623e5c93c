"""Facets: what of a payload may be filtered by, kept apart from the payload and by type, so that one collection's fields
never meet another's in the same shard. Pure.

A point has them under `f`: `f.k` words (and truth values, as words), `f.i` integers, `f.n` numbers, `f.t` times; a field's
name, dots and all, is one key there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from inferbus.contracts.vector_search import (
    AND,
    COMPARISONS,
    COMPOUNDS,
    EXISTS,
    GT,
    GTE,
    IN,
    LT,
    LTE,
    NE,
    NIN,
    NOT,
    OR,
    Filter,
)  # fmt: skip
from inferbus.contracts.vectors import BOOLEAN, DATETIME, FIELD_TYPES, FLOAT, INTEGER, KEYWORD, MAX_VERSION, Field
from inferbus.errors import InvalidRequest

WORDS, INTEGERS, NUMBERS, TIMES = "k", "i", "n", "t"
_KIND = {KEYWORD: WORDS, BOOLEAN: WORDS, INTEGER: INTEGERS, FLOAT: NUMBERS, DATETIME: TIMES}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}")
_RANGES = {GT, GTE, LT, LTE}
_MAX_DEPTH, _MAX_VALUES, _MAX_WORD = 8, 1000, 1024
_encode = msgspec.json.Encoder().encode


def check_fields(fields: Sequence[Field]) -> None:
    """Refuse fields that could not be indexed.

    Raises:
        InvalidRequest: the message names the field.
    """
    seen: set[str] = set()
    for n, field in enumerate(fields):
        param = f"fields.{n}"
        if _NAME.fullmatch(field.name) is None:
            raise InvalidRequest(
                f"field {field.name!r}: names are letters, digits, _ and -, with dots between", param=param
            )
        if field.type not in FIELD_TYPES:
            raise InvalidRequest(
                f"field {field.name!r}: type {field.type!r} is none of {', '.join(FIELD_TYPES)}", param=param
            )
        if field.name in seen:
            raise InvalidRequest(f"field {field.name!r} is there twice", param=param)
        seen.add(field.name)


def facet_key(field: Field) -> str:
    """Give the JSON path under which a field is stored and indexed."""
    return f'f.{_KIND[field.type]}."{field.name}"'


def kind_of(key: str) -> str:
    """Say of a facet's path which of the four kinds it is."""
    return key[2]


# --- of a payload -----------------------------------------------------------------------------------------------------


def facets_of(payload: bytes, fields: Sequence[Field]) -> bytes:
    """Take out of a payload what may be filtered by: a JSON object. Absent and null: nothing.

    Raises:
        InvalidRequest: it is no JSON object, or a field has values of another type; `param` names it.
    """
    if payload == b"{}":
        return payload
    try:
        found = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the payload is no JSON: {exc}", param="payload") from exc
    if not isinstance(found, dict):
        raise InvalidRequest("the payload is a JSON object", param="payload")
    kinds: dict[str, dict[str, Any]] = {}
    for field in fields:
        value = _at(found, field.name)
        if value is not None:
            kinds.setdefault(_KIND[field.type], {})[field.name] = _stored(field, value, f"payload.{field.name}")
    return _encode(kinds)


def _at(payload: dict[str, Any], name: str) -> Any:
    if name in payload:
        return payload[name]
    value: Any = payload
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _stored(field: Field, value: Any, param: str) -> Any:
    if isinstance(value, list):
        return [_one(field.type, each, param) for each in value[:_MAX_VALUES]]
    return _one(field.type, value, param)


def _one(type_: str, value: Any, param: str) -> Any:
    if isinstance(value, bool) == (type_ == BOOLEAN) and (found := _CONVERTED[type_](value)) is not None:
        return found
    raise InvalidRequest(f"{param} is to be of type {type_}, not {str(value)[:40]!r}", param=param)


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= _MAX_WORD else None


def _truth(value: Any) -> str:
    return "true" if value else "false"


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) <= MAX_VERSION else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e308 else None


def _time(value: Any) -> str | None:
    """Give a time as the engines take it; numbers are Unix seconds, and without a zone it is UTC."""
    try:
        seconds = isinstance(value, int | float)
        found = datetime.fromtimestamp(value, UTC) if seconds else datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    found = found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    return found.isoformat().replace("+00:00", "Z")


_CONVERTED: Mapping[str, Callable[[Any], Any]] = {
    KEYWORD: _word, BOOLEAN: _truth, INTEGER: _integer, FLOAT: _number, DATETIME: _time,
}  # fmt: skip


# --- of a filter ------------------------------------------------------------------------------------------------------


def resolve(filter_: Filter, fields: Sequence[Field]) -> Filter:
    """Say of a filter on the payload what it is on the facets, with values as they are stored.

    Raises:
        InvalidRequest: it is no filter, or names a field that is not indexed; `param` says which.
    """
    return _resolved(filter_, {field.name: field for field in fields}, "filter", _MAX_DEPTH)


def _resolved(one: Filter, fields: Mapping[str, Field], param: str, depth: int) -> Filter:
    if depth == 0:
        raise InvalidRequest(f"the filter is nested more than {_MAX_DEPTH} deep", param="filter")
    if one.type in COMPOUNDS:
        if not one.filters:
            raise InvalidRequest(f"{param}: {one.type} of nothing", param=f"{param}.filters")
        parts = [_resolved(part, fields, f"{param}.filters.{n}", depth - 1) for n, part in enumerate(one.filters)]
        return Filter(type=one.type, filters=parts)
    if one.type not in COMPARISONS:
        known = ", ".join((*COMPARISONS, *COMPOUNDS))
        raise InvalidRequest(f"{param}: type {one.type!r} is none of {known}", param=f"{param}.type")
    field = fields.get(one.key)
    if field is None:
        known = ", ".join(sorted(fields)) or "none"
        raise InvalidRequest(
            f"the field {one.key!r} is not indexed by this collection; indexed: {known}", param=one.key
        )
    return _compared(one, field, facet_key(field), param)


def _compared(one: Filter, field: Field, key: str, param: str) -> Filter:
    if one.type == EXISTS:
        holds = Filter(type=EXISTS, key=key)
        return holds if one.value is not False else Filter(type=NOT, filters=[holds])
    if one.type in (IN, NIN):
        if not isinstance(one.value, list) or not one.value or len(one.value) > _MAX_VALUES:
            raise InvalidRequest(f"{param}: {one.type} wants a list of 1 to {_MAX_VALUES}", param=f"{param}.value")
        values = [_one(field.type, value, f"{param}.value") for value in one.value]
        found = _any_of(key, values)
        return found if one.type == IN else Filter(type=NOT, filters=[found])
    if isinstance(one.value, list) or one.value is None:
        raise InvalidRequest(f"{param}: {one.type} wants one value", param=f"{param}.value")
    value = _one(field.type, one.value, f"{param}.value")
    if one.type in _RANGES:
        if kind_of(key) == WORDS:
            raise InvalidRequest(
                f"{param}: {one.type} is for numbers and times, {one.key!r} is {field.type}", param=one.key
            )
        return Filter(type=one.type, key=key, value=value)
    found = _any_of(key, [value])
    return Filter(type=NOT, filters=[found]) if one.type == NE else found


def _any_of(key: str, values: list[Any]) -> Filter:
    """Say that a facet has one of some values. Engines match words and integers; of others it is a range to itself."""
    if kind_of(key) in (WORDS, INTEGERS):
        return Filter(type=IN, key=key, value=values)
    ranges = [
        Filter(type=AND, filters=[Filter(type=GTE, key=key, value=value), Filter(type=LTE, key=key, value=value)])
        for value in values
    ]
    return ranges[0] if len(ranges) == 1 else Filter(type=OR, filters=ranges)
