"""Limits as somebody wants them: what is impossible is refused by its field's name."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.limits import LIMIT_SCOPES, MAX_LIMIT, LimitSet, limit_key, limits_from
from inferbus.errors import InvalidRequest

FIELDS = LimitSet.__struct_fields__


@given(st.dictionaries(st.sampled_from(FIELDS), st.integers(0, MAX_LIMIT)))
def test_what_can_be_a_limit_is_one(wanted: dict[str, int]) -> None:
    found = limits_from(wanted)
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert msgspec.json.decode(msgspec.json.encode(found), type=LimitSet) == found


@given(
    st.sampled_from(FIELDS),
    st.one_of(st.integers(max_value=-1), st.integers(min_value=MAX_LIMIT + 1), st.floats(), st.booleans(), st.text()),
)
def test_what_cannot_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        limits_from({field: value})
    assert caught.value.param == field
    assert field in caught.value.message


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        limits_from({"token_per_minute": 5})
    assert caught.value.param == "token_per_minute"


@pytest.mark.parametrize("value", [None, [], 5, "x"])
def test_limits_are_an_object(value: object) -> None:
    with pytest.raises(InvalidRequest):
        limits_from(value)


def test_names_in_the_bucket() -> None:
    assert limit_key("key", "abc") == "key.abc"
    assert limit_key("team", "acme", "red") == "team.acme.red"
    assert (limit_key("org", "acme"), limit_key("model", "m")) == ("org.acme", "model.m")


@pytest.mark.parametrize(
    "parts", [("team", "acme"), ("key", "a", "b"), ("user", "a"), *((scope,) for scope in LIMIT_SCOPES)]
)
def test_no_other_names(parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest):
        limit_key(*parts)
