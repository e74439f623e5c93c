"""Filters: what is read means what was said, and what cannot be meant is refused by a message that names the place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.errors import InvalidRequest
from inferbus_vectors.domain.filters import (
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Between,
    Exists,
    HasWords,
    NoneOf,
    OneOf,
    check_fields,
    read_filter,
)

FIELDS = {"brand": "keyword", "year": "integer", "price": "float", "new": "bool", "at": "datetime", "body": "text"}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*FIELDS, "and", "eq", "in"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["type", "key", "value", "filters", "x"]), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def said(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("filter_", "meant"),
    [
        (said("eq", "brand", "a"), OneOf("brand", ("a",))),
        (said("ne", "brand", "a"), NoneOf((OneOf("brand", ("a",)),))),
        (said("in", "year", [1, 2]), OneOf("year", (1, 2))),
        (said("nin", "year", [1]), NoneOf((OneOf("year", (1,)),))),
        (said("eq", "new", True), OneOf("new", (True,))),
        (said("gte", "year", 3), Between(field="year", gte=3)),
        (said("eq", "price", 1.5), Between(field="price", gte=1.5, lte=1.5)),
        (said("lt", "at", "2026-11-22T10:00:00+01:00"), Between(field="at", lt="2026-11-22T09:00:00+00:00", is_time=True)),
        (said("gt", "at", "2026-11-22"), Between(field="at", gt="2026-11-22T00:00:00+00:00", is_time=True)),
        (said("exists", "brand", False), NoneOf((Exists("brand"),))),
        (said("contains", "body", "two words"), HasWords("body", "two words")),
        (
            {"type": "or", "filters": [said("eq", "brand", "a"), {"type": "and", "filters": [said("eq", "new", False)]}]},
            AnyOf((OneOf("brand", ("a",)), AllOf((OneOf("new", (False,)),)))),
        ),
    ],
)  # fmt: skip
def test_read(filter_: object, meant: object) -> None:
    assert read_filter(filter_, FIELDS) == meant


@pytest.mark.parametrize(
    ("filter_", "param", "says"),
    [
        (said("eq", "colour", "red"), "filter.key", "`brand`"),
        (said("eq", "brand", 1), "filter.value", "no keyword"),
        (said("eq", "year", True), "filter.value", "no integer"),
        (said("eq", "year", 2**63), "filter.value", "64 bits"),
        (said("gt", "year", 2**60), "filter.value", "2^53"),
        (said("gt", "price", float("nan")), "filter.value", "finite"),
        (said("gt", "brand", 1), "filter.value", "is keyword"),
        (said("lt", "at", "yesterday"), "filter.value", "RFC 3339"),
        (said("eq", "body", "x"), "filter.value", "contains"),
        (said("in", "year", []), "filter.value", "1 to"),
        (said("like", "brand", "x"), "filter.type", "none of eq"),
        ({"type": "eq", "key": "brand"}, "filter.value", "missing"),
        (said("eq", "brand", "a") | {"boost": 2}, "filter.boost", "unknown"),
        ({"type": "and", "filters": []}, "filter.filters", "at least one"),
        ({"type": "and", "filters": [said("eq", "brand", "a"), said("eq", "x", 1)]}, "filter.filters[1].key", "'x'"),
        ([], "filter", "object"),
        (said("eq", "_tenant", "other"), "filter.key", "not indexed"),
        (said("eq", ["brand"], "x"), "filter.key", "name of a field"),
    ],
)  # fmt: skip
def test_refused(filter_: object, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_filter(filter_, FIELDS)
    assert raised.value.param == param
    assert says in raised.value.message
    assert raised.value.message.startswith(param)


def test_too_deep_and_too_many() -> None:
    deep: dict[str, Any] = said("eq", "brand", "a")
    for _ in range(MAX_DEPTH):
        deep = {"type": "not", "filters": [deep]}
    many = {"type": "or", "filters": [said("eq", "brand", "a")] * 200}
    for filter_ in (deep, many):
        with pytest.raises(InvalidRequest):
            read_filter(filter_, FIELDS)


@given(_JSON)
def test_anything_is_read_or_refused_by_name(filter_: object) -> None:
    refused: InvalidRequest | None = None
    try:
        read_filter(filter_, FIELDS)
    except InvalidRequest as exc:
        refused = exc
    assert refused is None or (refused.param or "").startswith("filter")


@pytest.mark.parametrize("fields", [{"_tenant": "keyword"}, {"a.b": "keyword"}, {"a": "geo"}, {"": "text"}])
def test_fields_that_cannot_be(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_fields(fields)
    assert raised.value.param is not None
    assert raised.value.param.startswith("fields.")
