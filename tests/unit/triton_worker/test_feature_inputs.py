"""Inputs made of features: which are asked for, where they go, and what is refused."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import pytest

from inferbus.contracts.features import FeatureColumn, GetAnswer
from inferbus.errors import InvalidRequest
from inferbus.kserve.request import InferRequest, parse
from inferbus.kserve.tensors import values_of
from inferbus_triton_worker.domain.checking import check_request
from inferbus_triton_worker.domain.feature_inputs import Wish, filled, question_of, wish_of
from inferbus_triton_worker.domain.signature import Signature, TensorSpec

RANKER = Signature(
    name="ranker", versions=("1",), inputs=(TensorSpec("FEATURES", "FP32", (3,)),), outputs=(), max_rows=256
)
WISH = Wish("ranking", "", False)


def request(**changes: Any) -> InferRequest:
    body = {
        "parameters": {"feature_service": "ranking"},
        "inputs": [
            {"name": "user_id", "datatype": "INT64", "shape": [1], "data": [7]},
            {"name": "item_id", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [2.5], "parameters": {"feature": "context"}},
        ],
    }
    return parse(msgspec.json.encode(body | changes), 0)


def answer(*columns: FeatureColumn) -> GetAnswer:
    return GetAnswer(service="ranking", rows=len(columns[0].values), columns=list(columns))


def column(name: str, *values: Any, kind: str = "float32") -> FeatureColumn:
    return FeatureColumn(name=name, kind=kind, values=list(values))


def test_ids_are_asked_for_and_features_become_the_missing_input() -> None:
    given = request()
    assert wish_of(given) == WISH
    question = question_of(given, RANKER)
    assert (question.entities, question.context) == ({"user_id": 7, "item_id": ["a", "b"]}, {"amount": 2.5})
    made = filled(given, RANKER, answer(column("x", 1, 2), column("y", 3.5, None), column("z", 5, 6)), WISH)
    (tensor,) = made.inputs
    assert (tensor.name, tensor.shape, made.parameters) == ("FEATURES", [2, 3], {})
    assert tensor.raw is not None
    values = values_of("FP32", tensor.shape, tensor.raw)
    assert values[:4] == [1.0, 3.5, 5.0, 2.0]
    assert math.isnan(values[4])
    check_request(RANKER, made)


def test_a_feature_called_as_an_input_goes_there() -> None:
    signature = Signature(
        name="m", versions=("1",), outputs=(), max_rows=8,
        inputs=(TensorSpec("price", "INT64", (1,)), TensorSpec("city", "BYTES", (1,)), TensorSpec("REST", "FP64", (2,))),
    )  # fmt: skip
    columns = (
        column("price", 1, 2, kind="int64"),
        column("x", 1.0, 2.0),
        column("city", "Ulm", "Bonn", kind="string"),
        column("y", 3.0, 4.0),
    )
    made = filled(request(), signature, answer(*columns), WISH)
    found = {one.name: (one.shape, bytes(one.raw or b"")) for one in made.inputs}
    assert found["price"] == ([2, 1], struct.pack("<2q", 1, 2))
    assert found["city"] == ([2, 1], b"\x03\0\0\0Ulm\x04\0\0\0Bonn")
    assert found["REST"] == ([2, 2], struct.pack("<4d", 1, 3, 2, 4))


def test_a_request_with_tensors_wants_nothing() -> None:
    assert wish_of(request(parameters={})) is None


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"feature_service": 3}, "feature_service"), ({"feature_service": "s", "feature_log": "yes"}, "feature_log")],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wish_of(request(parameters=parameters))
    assert caught.value.param == named


def test_a_value_that_is_not_there_is_refused_where_nan_is_not_possible() -> None:
    signature = Signature(name="m", versions=("1",), outputs=(), inputs=(TensorSpec("N", "INT32", (2,)),), max_rows=8)
    with pytest.raises(InvalidRequest, match="feature `y` has no value in row 1") as caught:
        filled(request(), signature, answer(column("x", 1, 2, kind="int32"), column("y", 1, None, kind="int32")), WISH)
    assert caught.value.param == "y"


def test_it_must_be_clear_where_features_go() -> None:
    two = Signature(
        name="m", versions=("1",), outputs=(), max_rows=8,
        inputs=(TensorSpec("A", "FP32", (1,)), TensorSpec("B", "FP32", (1,))),
    )  # fmt: skip
    with pytest.raises(InvalidRequest, match="`A`, `B`"):
        filled(request(), two, answer(column("x", 1.0, 2.0)), WISH)
    with pytest.raises(InvalidRequest, match="ids of entities"):
        question_of(
            request(inputs=[{"name": "FEATURES", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]), RANKER
        )
