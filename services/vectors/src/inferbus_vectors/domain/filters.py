"""Filters: what a search says of payloads, read and checked against the fields its collection has indexed. Pure.

The language is that of the OpenAI vector store API, so that one filter works at every door: comparisons
`{"type": "eq", "key": "brand", "value": "acme"}` with eq, ne, gt, gte, lt, lte, in, nin, and compounds
`{"type": "and", "filters": [...]}` with and, or. Ours besides: `not` (a compound: none of these), `exists`
(value true or false), `contains` (words of a text field). A list in a payload matches if one of its elements does;
`ne` and `nin` match documents that lack the field, too.

Who a document belongs to is no payload field: no filter can name another tenant's or collection's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from inferbus.errors import InferbusError, InvalidRequest

KEYWORD, INTEGER, FLOAT, BOOL, DATETIME, TEXT = FIELD_TYPES = (
    "keyword", "integer", "float", "bool", "datetime", "text",
)  # fmt: skip
"""What an indexed payload field may hold."""

MAX_DEPTH = 8
MAX_CONDITIONS = 128
MAX_VALUES = 1024
_EXACT = 2**53  # integers above are not told apart by the engines' ranges, which are of doubles
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_EQUALITY, _RANGE, _COMPOUND = ("eq", "ne"), ("gt", "gte", "lt", "lte"), ("and", "or", "not")
_TYPES = (*_EQUALITY, "in", "nin", *_RANGE, "exists", "contains", *_COMPOUND)
_ORDERED = (INTEGER, FLOAT, DATETIME)


class OneOf(msgspec.Struct, frozen=True):
    """The field is one of these values: of a keyword, integer or bool field."""

    field: str
    values: tuple[str | int | bool, ...]


class Between(msgspec.Struct, frozen=True, kw_only=True):
    """The field is within these bounds; numbers, or times (RFC 3339) where `is_time`."""

    field: str
    gt: float | str | None = None
    gte: float | str | None = None
    lt: float | str | None = None
    lte: float | str | None = None
    is_time: bool = False


class Exists(msgspec.Struct, frozen=True):
    """The document has the field."""

    field: str


class HasWords(msgspec.Struct, frozen=True):
    """The text field has all the words of `text`."""

    field: str
    text: str


class AllOf(msgspec.Struct, frozen=True):
    parts: tuple[Condition, ...]


class AnyOf(msgspec.Struct, frozen=True):
    parts: tuple[Condition, ...]


class NoneOf(msgspec.Struct, frozen=True):
    parts: tuple[Condition, ...]


Condition = OneOf | Between | Exists | HasWords | AllOf | AnyOf | NoneOf


def is_field_name(name: str) -> bool:
    return _FIELD.fullmatch(name) is not None


def check_fields(fields: Mapping[str, str], *, where: str = "fields") -> None:
    """Refuse indexed fields that could not be.

    Raises:
        InvalidRequest: the message names the field.
    """
    for name, kind in fields.items():
        if not is_field_name(name):
            raise InvalidRequest(
                f"{where}: {name[:80]!r} is no field name (letters, digits, _ and -, a letter first, 64 at most)",
                param=f"{where}.{name[:80]}",
            )
        if kind not in FIELD_TYPES:
            raise InvalidRequest(
                f"{where}.{name}: unknown type {kind[:80]!r}; known: {', '.join(FIELD_TYPES)}", param=f"{where}.{name}"
            )


def read_filter(said: object, fields: Mapping[str, str], *, where: str = "filter") -> Condition:
    """Read a filter as it came (JSON, decoded). `fields`: the indexed ones and their types.

    Raises:
        InvalidRequest: the message names the place, and where it is the fault of a field, the field.
    """
    return _Reader(fields).read(said, where, 1)


class _Reader:
    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self._conditions = 0

    def read(self, said: object, where: str, depth: int) -> Condition:
        if not isinstance(said, dict):
            raise _bad(where, 'an object like {"type": "eq", "key": ..., "value": ...} is expected')
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _bad(where, f"more than {MAX_CONDITIONS} conditions")
        kind = said.get("type")
        if not isinstance(kind, str) or kind not in _TYPES:
            raise _bad(f"{where}.type", f"{_shown(kind)} is none of {', '.join(_TYPES)}")
        if kind in _COMPOUND:
            return self._compound(kind, said, where, depth)
        _check_keys(said, ("type", "key", "value"), where)
        return self._comparison(kind, said, where)

    def _compound(self, kind: str, said: dict[str, Any], where: str, depth: int) -> Condition:
        _check_keys(said, ("type", "filters"), where)
        if depth >= MAX_DEPTH:
            raise _bad(where, f"nested deeper than {MAX_DEPTH}")
        filters = said["filters"]
        if not isinstance(filters, list) or not filters:
            raise _bad(f"{where}.filters", "a list with at least one filter is expected")
        parts = tuple(self.read(one, f"{where}.filters[{at}]", depth + 1) for at, one in enumerate(filters))
        return {"and": AllOf, "or": AnyOf, "not": NoneOf}[kind](parts)

    def _comparison(self, kind: str, said: dict[str, Any], where: str) -> Condition:
        field, value = said["key"], said["value"]
        of = self._type_of(field, f"{where}.key")
        at = f"{where}.value"
        if kind == "exists":
            if not isinstance(value, bool):
                raise _bad(at, "exists takes true or false")
            return Exists(field) if value else NoneOf((Exists(field),))
        if kind == "contains":
            return _words(field, of, value, at)
        if kind in _RANGE:
            if of not in _ORDERED:
                raise _bad(at, f"{kind} needs a field of type {', '.join(_ORDERED)}; `{field}` is {of}")
            bound = _time(value, field, at) if of == DATETIME else _number(value, field, of, at)
            return Between(field=field, is_time=of == DATETIME, **{kind: bound})
        values = [value]
        if kind in ("in", "nin"):
            if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
                raise _bad(at, f"{kind} takes a list of 1 to {MAX_VALUES} values")
            values = value
        wanted = _one_of(field, of, values, at)
        return wanted if kind in ("eq", "in") else NoneOf((wanted,))

    def _type_of(self, field: object, where: str) -> str:
        if not isinstance(field, str):
            raise _bad(where, "the name of a field is expected")
        if (of := self._fields.get(field)) is None:
            known = ", ".join(f"`{name}`" for name in sorted(self._fields)) or "none"
            raise _bad(where, f"the field {_shown(field)} is not indexed in this collection; indexed: {known}")
        return of


def _one_of(field: str, of: str, values: list[Any], where: str) -> Condition:
    if of == TEXT:
        raise _bad(where, f"`{field}` is text: use contains")
    if of in (FLOAT, DATETIME):
        bounds = [_time(one, field, where) if of == DATETIME else _number(one, field, of, where) for one in values]
        points = tuple(Between(field=field, gte=one, lte=one, is_time=of == DATETIME) for one in bounds)
        return points[0] if len(points) == 1 else AnyOf(points)
    wanted = {KEYWORD: str, INTEGER: int, BOOL: bool}[of]
    for one in values:
        if not isinstance(one, wanted) or (isinstance(one, bool) and of != BOOL):
            raise _bad(where, f"{_shown(one)} is no {of}, which `{field}` is")
        if of == INTEGER and not -(2**63) <= one < 2**63:
            raise _bad(where, f"{_shown(one)} does not fit into 64 bits")
    return OneOf(field, tuple(values))


def _words(field: str, of: str, value: object, where: str) -> HasWords:
    if of != TEXT:
        raise _bad(where, f"contains needs a field of type text; `{field}` is {of}")
    if not isinstance(value, str) or not value.strip():
        raise _bad(where, "contains takes words")
    return HasWords(field, value)


def _number(value: object, field: str, of: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(where, f"{_shown(value)} is no number, which `{field}` is")
    if isinstance(value, float) and not -1.8e308 < value < 1.8e308:
        raise _bad(where, "a finite number is expected")
    if isinstance(value, int) and abs(value) > _EXACT:
        raise _bad(where, f"{_shown(value)} is beyond 2^53, where {of} ranges are not exact")
    return value


def _time(value: object, field: str, where: str) -> str:
    """Give a time as every engine reads it; one without a zone is UTC."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        if at is not None:
            return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        pass
    raise _bad(where, f"{_shown(value)} is no time (RFC 3339, as 2026-11-22T10:00:00Z), which `{field}` is")


def _check_keys(said: dict[str, Any], wanted: tuple[str, ...], where: str) -> None:
    for name in wanted:
        if name not in said:
            raise _bad(f"{where}.{name}", "is missing")
    for name in said:
        if name not in wanted:
            raise _bad(f"{where}.{name[:80]}", f"is unknown here; known: {', '.join(wanted)}")


def _shown(value: object) -> str:
    return repr(value)[:80]


def _bad(where: str, why: str) -> InferbusError:
    return InvalidRequest(f"{where}: {why}", param=where)
