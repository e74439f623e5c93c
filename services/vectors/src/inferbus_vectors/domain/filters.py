"""Filters: what a search says of payloads, checked against the fields its collection has indexed. Pure.

The language is that of the OpenAI vector store API (`contracts.vector_search.Filter`), so that one filter works at every
door. A list in a payload matches if one of its elements does; `ne`, `nin` and `not` match documents that lack the field,
too. Whose a document is is no payload field: no filter can name another tenant's or collection's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from inferbus.contracts.vector_search import (
    COMPARISONS,
    COMPOUNDS,
    EXISTS,
    GT,
    GTE,
    IN,
    LT,
    LTE,
    NIN,
    Filter,
    Scalar,
    Value,
)
from inferbus.contracts.vectors import BOOLEAN, DATETIME, FIELD_TYPES, FLOAT, INTEGER, KEYWORD, Field
from inferbus.errors import InferbusError, InvalidRequest

MAX_DEPTH = 8
MAX_CONDITIONS = 128
MAX_VALUES = 1024
MAX_FIELDS = 64
_EXACT = 2**53  # integers above are not told apart by the engines' ranges, which are of doubles
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)*")
_FIELD_CHARS = 128
_RANGES = (GT, GTE, LT, LTE)
_ORDERED = (INTEGER, FLOAT, DATETIME)
_EQUAL = {KEYWORD: str, INTEGER: int, BOOLEAN: bool}


def check_fields(fields: Sequence[Field], *, where: str = "fields") -> None:
    """Refuse indexed fields that could not be.

    Raises:
        InvalidRequest: the message names the field.
    """
    if len(fields) > MAX_FIELDS:
        raise _bad(where, f"{len(fields)} fields, {MAX_FIELDS} are the most")
    names = set[str]()
    for at, field in enumerate(fields):
        if len(field.name) > _FIELD_CHARS or not _FIELD.fullmatch(field.name):
            raise _bad(
                f"{where}[{at}].name",
                f"{_shown(field.name)} is no field name (letters, digits, _ and -, a letter first)",
            )
        if field.type not in FIELD_TYPES:
            raise _bad(f"{where}[{at}].type", f"{_shown(field.type)} is none of {', '.join(FIELD_TYPES)}")
        if field.name in names:
            raise _bad(f"{where}[{at}].name", f"`{field.name}` is there twice")
        names.add(field.name)


def check_filter(said: Filter, fields: Sequence[Field], *, where: str = "filter") -> Filter:
    """Check a filter as it came. `fields`: the indexed ones.

    Returns: the same, with times as every engine reads them.

    Raises:
        InvalidRequest: the message names the place, and where it is the fault of a field, the field.
    """
    return _Checker({field.name: field for field in fields}).check(said, where, 1)


class _Checker:
    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self._conditions = 0

    def check(self, said: Filter, where: str, depth: int) -> Filter:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _bad(where, f"more than {MAX_CONDITIONS} conditions")
        if said.type in COMPOUNDS:
            return self._compound(said, where, depth)
        if said.type not in COMPARISONS:
            raise _bad(f"{where}.type", f"{_shown(said.type)} is none of {', '.join(COMPARISONS + COMPOUNDS)}")
        if said.filters:
            raise _bad(f"{where}.filters", f"a comparison ({said.type}) has none")
        return self._comparison(said, where)

    def _compound(self, said: Filter, where: str, depth: int) -> Filter:
        if said.key or said.value is not None:
            raise _bad(where, f"a compound ({said.type}) has filters, and no key or value of its own")
        if depth >= MAX_DEPTH:
            raise _bad(where, f"nested deeper than {MAX_DEPTH}")
        if not said.filters:
            raise _bad(f"{where}.filters", "a list with at least one filter is expected")
        parts = [self.check(one, f"{where}.filters[{at}]", depth + 1) for at, one in enumerate(said.filters)]
        return Filter(type=said.type, filters=parts)

    def _comparison(self, said: Filter, where: str) -> Filter:
        field = self._fields.get(said.key)
        if field is None:
            known = ", ".join(f"`{name}`" for name in sorted(self._fields)) or "none"
            raise _bad(
                f"{where}.key", f"the field {_shown(said.key)} is not indexed in this collection; indexed: {known}"
            )
        at = f"{where}.value"
        if said.type == EXISTS:
            if said.value not in (None, True, False) or (
                isinstance(said.value, int | float) and not isinstance(said.value, bool)
            ):
                raise _bad(at, "exists takes true or false")
            return Filter(type=EXISTS, key=said.key, value=said.value is not False)
        if said.type in (IN, NIN):
            if not isinstance(said.value, list) or not 0 < len(said.value) <= MAX_VALUES:
                raise _bad(at, f"{said.type} takes a list of 1 to {MAX_VALUES} values")
            return Filter(type=said.type, key=said.key, value=[_equal(one, field, at) for one in said.value])
        if said.type in _RANGES:
            if field.type not in _ORDERED:
                raise _bad(
                    at, f"{said.type} needs a field of type {', '.join(_ORDERED)}; `{field.name}` is {field.type}"
                )
            return Filter(type=said.type, key=said.key, value=_bound(said.value, field, at))
        return Filter(type=said.type, key=said.key, value=_equal(said.value, field, at))


def _equal(value: Value, field: Field, where: str) -> Scalar:
    """Give what a field is to be equal to."""
    if field.type in (FLOAT, DATETIME):
        return _bound(value, field, where)
    wanted = _EQUAL[field.type]
    if not isinstance(value, str | int) or not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        raise _bad(where, f"{_shown(value)} is no {field.type}, which `{field.name}` is")
    if wanted is int and not -(2**63) <= int(value) < 2**63:
        raise _bad(where, f"{_shown(value)} does not fit into 64 bits")
    return value


def _bound(value: Value, field: Field, where: str) -> float | str:
    """Give a bound of a range: a number, or a time as every engine reads it; one without a zone is UTC."""
    if field.type == DATETIME:
        try:
            at = datetime.fromisoformat(value) if isinstance(value, str) else None
            if at is not None:
                return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
        except (ValueError, OverflowError):
            pass
        raise _bad(where, f"{_shown(value)} is no time (RFC 3339, as 2026-11-22T10:00:00Z), which `{field.name}` is")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(where, f"{_shown(value)} is no number, which `{field.name}` is")
    if value != value or abs(value) == float("inf"):  # noqa: PLR0124  # NaN
        raise _bad(where, "a finite number is expected")
    if isinstance(value, int) and abs(value) > _EXACT:
        raise _bad(where, f"{_shown(value)} is beyond 2^53, where ranges are not exact")
    return value


def _shown(value: object) -> str:
    return repr(value)[:80]


def _bad(where: str, why: str) -> InferbusError:
    return InvalidRequest(f"{where}: {why}", param=where)
