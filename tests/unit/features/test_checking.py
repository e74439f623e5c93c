"""Whether a request can be read is decided without a store: rows in full, or the field that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.features import (
    Catalogue,
    EntityRecord,
    FeatureRecord,
    GetRequest,
    ServiceRecord,
    ViewRecord,
)
from inferbus.errors import InferbusError, InvalidRequest, TooLarge
from inferbus_features.domain.checking import Limits, check
from inferbus_features.domain.services import output_names, services_of

CATALOGUE = Catalogue(
    project="p",
    entities=[EntityRecord(name="user", join_key="user_id", kind="int64")],
    views=[
        ViewRecord(name="a", entities=["user"], features=[FeatureRecord(name="x", kind="int64"), FeatureRecord(name="y", kind="string")], ttl_s=60),
        ViewRecord(name="b", entities=["user"], features=[FeatureRecord(name="x", kind="float64", default=0.5)]),
    ],
    services=[
        ServiceRecord(
            name="s", features=["me:x", "me:y", "b:x"], join_keys={"user_id": "int64", "item_id": "string"},
            context={"amount": "float64"}, aliases={"me": "a"}, max_age_s=30.0,
        )
    ],
)  # fmt: skip
SERVICE = services_of(CATALOGUE)["s"]
LIMITS = Limits(rows=100, values=200)


def asked(**changes: Any) -> GetRequest:
    return GetRequest(**({"entities": {"user_id": [1, 2], "item_id": "a"}, "context": {"amount": 2}} | changes))


def test_columns_are_named_by_view_only_where_they_must_be() -> None:
    assert output_names([("a", "x"), ("a", "y"), ("b", "x")]) == ["a__x", "y", "b__x"]
    assert {name: (one.view, one.ttl_s, one.default) for name, one in SERVICE.columns.items()} == {
        "me__x": ("a", 60.0, None), "y": ("a", 60.0, None), "b__x": ("b", 0.0, 0.5),
    }  # fmt: skip


def test_a_single_value_holds_for_every_row() -> None:
    found = check(asked(features=["y"]), SERVICE, LIMITS)
    assert (found.rows, found.entities) == (2, {"user_id": [1, 2], "item_id": ["a", "a"]})
    assert (found.context, found.names, found.max_age_s) == ({"amount": [2, 2]}, ("y",), 30.0)
    alone = check(asked(entities={"user_id": 1, "item_id": "a"}), SERVICE, LIMITS)
    assert (alone.rows, alone.entities["user_id"]) == (1, [1])


def test_more_values_than_allowed_are_too_many() -> None:
    with pytest.raises(TooLarge, match="200 values"):
        check(asked(entities={"user_id": list(range(70)), "item_id": "a"}), SERVICE, LIMITS)
    assert (
        check(asked(entities={"user_id": list(range(70)), "item_id": "a"}, features=["y"]), SERVICE, LIMITS).rows == 70
    )


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))


@given(user=st.one_of(VALUES, st.lists(VALUES, max_size=5)), item=st.one_of(VALUES, st.lists(VALUES, max_size=5)))
def test_whatever_is_asked_is_read_in_full_or_refused_by_name(user: Any, item: Any) -> None:
    try:
        found = check(asked(entities={"user_id": user, "item_id": item}), SERVICE, LIMITS)
    except InferbusError as exc:
        field = exc.param or ""
    else:
        field = "entities."
        assert {len(values) for values in (*found.entities.values(), *found.context.values())} == {found.rows}
        assert all(type(value) is int and abs(value) <= 2**63 for value in found.entities["user_id"])
        assert all(type(value) is str for value in found.entities["item_id"])
    assert field.startswith(("entities.", "context."))


def test_a_feature_named_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(asked(features=["y", "y"]), SERVICE, LIMITS)
    assert caught.value.param == "features"
