"""Filters: what is read means what was said, and what cannot be meant is refused by a message that names the place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.vector_search import COMPARISONS, COMPOUNDS, Filter
from inferbus.contracts.vectors import Field
from inferbus.errors import InvalidRequest
from inferbus_vectors.domain.filters import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    check_fields,
    check_filter,
)

FIELDS = [
    Field(name="brand"), Field(name="year", type="integer"), Field(name="price", type="float"),
    Field(name="is.new", type="bool"), Field(name="at", type="datetime"),
]  # fmt: skip
_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_KINDS = st.sampled_from([*COMPARISONS, *COMPOUNDS, "like"])
_KEYS = st.sampled_from([field.name for field in FIELDS] + ["", "colour"])
_FILTERS = st.recursive(
    st.builds(
        Filter, type=_KINDS, key=_KEYS, value=_VALUES | st.lists(st.integers() | st.text(max_size=3), max_size=4)
    ),
    lambda inner: st.builds(Filter, type=_KINDS, key=_KEYS, filters=st.lists(inner, max_size=4)),
    max_leaves=20,
)


def said(kind: str, key: str, value: Any) -> Filter:
    return Filter(type=kind, key=key, value=value)


def both(kind: str, *filters: Filter) -> Filter:
    return Filter(type=kind, filters=list(filters))


@pytest.mark.parametrize(
    ("filter_", "meant"),
    [
        (said("eq", "brand", "a"), said("eq", "brand", "a")),
        (said("in", "year", [1, 2]), said("in", "year", [1, 2])),
        (said("eq", "is.new", True), said("eq", "is.new", True)),
        (said("gte", "year", 3), said("gte", "year", 3)),
        (said("eq", "price", 1), said("eq", "price", 1)),
        (said("lt", "at", "2026-11-22T10:00:00+01:00"), said("lt", "at", "2026-11-22T09:00:00+00:00")),
        (said("nin", "at", ["2026-11-22"]), said("nin", "at", ["2026-11-22T00:00:00+00:00"])),
        (said("exists", "brand", False), said("exists", "brand", False)),
        (Filter(type="exists", key="brand"), said("exists", "brand", True)),
        (both("or", both("not", said("ne", "brand", "a"))), both("or", both("not", said("ne", "brand", "a")))),
    ],
)  # fmt: skip
def test_read(filter_: Filter, meant: object) -> None:
    assert check_filter(filter_, FIELDS) == meant


@pytest.mark.parametrize(
    ("filter_", "param", "says"),
    [
        (said("eq", "colour", "red"), "filter.key", "indexed: `at`, `brand`"),
        (said("eq", "brand", 1), "filter.value", "no keyword"),
        (said("eq", "year", True), "filter.value", "no integer"),
        (said("eq", "is.new", 1), "filter.value", "no bool"),
        (said("eq", "year", 2**63), "filter.value", "64 bits"),
        (said("gt", "year", 2**60), "filter.value", "2^53"),
        (said("gt", "price", float("nan")), "filter.value", "finite"),
        (said("gt", "brand", 1), "filter.value", "is keyword"),
        (said("lt", "at", "yesterday"), "filter.value", "RFC 3339"),
        (said("in", "year", []), "filter.value", "1 to"),
        (said("in", "year", 3), "filter.value", "1 to"),
        (said("eq", "year", [3]), "filter.value", "no integer"),
        (said("like", "brand", "x"), "filter.type", "none of eq"),
        (Filter(type="eq", key="brand"), "filter.value", "no keyword"),
        (Filter(type="eq", key="brand", value="a", filters=[said("eq", "brand", "a")]), "filter.filters", "comparison"),
        (Filter(type="and", key="brand", filters=[said("eq", "brand", "a")]), "filter", "compound"),
        (both("and"), "filter.filters", "at least one"),
        (both("and", said("eq", "brand", "a"), said("eq", "x", 1)), "filter.filters[1].key", "'x'"),
        (said("eq", "_tenant", "other"), "filter.key", "not indexed"),
    ],
)  # fmt: skip
def test_refused(filter_: Filter, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_filter(filter_, FIELDS)
    assert raised.value.param == param
    assert says in raised.value.message
    assert raised.value.message.startswith(param)


def test_too_deep_and_too_many() -> None:
    deep = said("eq", "brand", "a")
    for _ in range(MAX_DEPTH):
        deep = both("not", deep)
    for filter_ in (deep, both("or", *[said("eq", "brand", "a")] * MAX_CONDITIONS)):
        with pytest.raises(InvalidRequest):
            check_filter(filter_, FIELDS)


@given(_FILTERS)
def test_anything_is_read_or_refused_by_name(filter_: Filter) -> None:
    refused: InvalidRequest | None = None
    try:
        check_filter(filter_, FIELDS)
    except InvalidRequest as exc:
        refused = exc
    assert refused is None or (refused.param or "").startswith("filter")


@pytest.mark.parametrize(
    "fields",
    [[Field(name="_tenant")], [Field(name="a..b")], [Field(name="a", type="geo")], [Field(name="a"), Field(name="a")]],
)
def test_fields_that_cannot_be(fields: list[Field]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_fields(fields)
    assert (raised.value.param or "").startswith("fields[")
