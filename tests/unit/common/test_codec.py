"""Codec: decoding failures name the field."""

from __future__ import annotations

import msgspec
import pytest

from inferbus.codec import field_of, from_json
from inferbus.errors import InvalidRequest


class Inner(msgspec.Struct):
    size: int


class Body(msgspec.Struct, kw_only=True):
    model: str
    max_tokens: int = 1
    inner: Inner | None = None
    parts: list[Inner] = []


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"model":"m","max_tokens":"many"}', "max_tokens"),
        (b'{"model":"m","inner":{"size":null}}', "inner.size"),
        (b'{"model":"m","parts":[{"size":1},{"size":"2"}]}', "parts[1].size"),
        (b'{"model":"m","inner":{}}', "inner.size"),
        (b'{"max_tokens":3}', "model"),
        (b'{"model":1}', "model"),
        (b"[]", None),
        (b"{", None),
        (b"", None),
    ],
)
def test_the_field_is_named(data: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_json(data, Body, what="body")
    assert caught.value.param == field
    assert caught.value.message.startswith("body: ")


def test_what_fits_is_decoded() -> None:
    assert from_json(b'{"model":"m","unknown":1}', Body, what="body") == Body(model="m")


def test_other_exceptions_have_no_field() -> None:
    assert field_of(ValueError("no field")) is None
