"""Requests of inference as they come in: what fits is sliced and not copied, what does not is named."""

from __future__ import annotations

import gc
import json
import struct
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.errors import InvalidRequest
from inferbus.kserve.request import InferRequest, parse, rows_of
from inferbus.kserve.tensors import DATATYPES, ITEM_BYTES, bytes_raw, elements_of, raw_of, values_of

_RANGES = {
    name: (-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1) if name.startswith("I") else (0, 2 ** (8 * size) - 1)
    for name, size in ITEM_BYTES.items()
    if "INT" in name
}


def _values(datatype: str, count: int) -> st.SearchStrategy[list[Any]]:
    if datatype == "BYTES":
        one: st.SearchStrategy[Any] = st.text(max_size=8)
    elif datatype == "BOOL":
        one = st.booleans()
    elif datatype in _RANGES:
        one = st.integers(*_RANGES[datatype])
    else:
        one = st.floats(width={"FP16": 16, "FP32": 32, "FP64": 64}[datatype], allow_nan=False, allow_infinity=False)
    return st.lists(one, min_size=count, max_size=count)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    datatype = draw(st.sampled_from([name for name in DATATYPES if name != "BF16"]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    return datatype, shape, draw(_values(datatype, elements_of(shape)))


def _nested(shape: list[int], values: list[Any]) -> Any:
    if len(shape) <= 1:
        return values
    step = elements_of(shape[1:])
    return [_nested(shape[1:], values[at * step : (at + 1) * step]) for at in range(shape[0])]


def _request(*inputs: dict[str, Any], raw: bytes = b"", **more: Any) -> tuple[bytes, int]:
    head = json.dumps({"inputs": list(inputs)} | more).encode()
    return head + raw, len(head) if raw else 0


def _one(datatype: str = "FP32", shape: object = (2,), **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape} | more


def _as_json(datatype: str, values: list[Any]) -> list[Any]:
    return [value.encode() for value in values] if datatype == "BYTES" else values


@given(tensors(), st.booleans())
def test_values_in_json_become_the_same_raw_bytes_and_back(
    given_: tuple[str, list[int], list[Any]], nest: bool
) -> None:
    datatype, shape, values = given_
    data = _nested(shape, values) if nest else values
    tensor = parse(*_request(_one(datatype, shape, data=data))).inputs[0]
    assert values_of(datatype, shape, raw_of(tensor)) == _as_json(datatype, values)


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_raw_inputs_are_slices_in_the_order_of_the_inputs(given_: list[tuple[str, list[int], list[Any]]]) -> None:
    raws, inputs = [], []
    for number, (datatype, shape, values) in enumerate(given_):
        tensor = parse(*_request(_one(datatype, shape, data=values))).inputs[0]
        raws.append(bytes(raw_of(tensor)))
        inputs.append(_one(datatype, shape, parameters={"binary_data_size": len(raws[-1])}) | {"name": f"x{number}"})
    head = json.dumps({"inputs": inputs}).encode()
    body = head + b"".join(raws)
    request = parse(body, len(head))
    assert [bytes(raw_of(tensor)) for tensor in request.inputs] == raws
    assert all(tensor.raw is not None and tensor.raw.obj is body for tensor in request.inputs)


@given(st.binary(max_size=60), st.integers(-5, 80))
def test_no_bytes_whatever_do_anything_but_parse_or_be_refused(body: bytes, json_bytes: int) -> None:
    with suppress(InvalidRequest):
        assert isinstance(parse(body, json_bytes), InferRequest)


@given(st.sampled_from(DATATYPES), st.lists(st.integers(0, 5), max_size=3), st.binary(max_size=80), st.integers(-2, 90))
def test_raw_bytes_are_taken_only_where_they_are_exactly_the_tensor(
    datatype: str, shape: list[int], raw: bytes, size: int
) -> None:
    head = json.dumps({"inputs": [_one(datatype, shape, parameters={"binary_data_size": size})]}).encode()
    try:
        request = parse(head + raw, len(head))
    except InvalidRequest:
        if size == len(raw) and datatype != "BYTES":
            assert elements_of(shape) * ITEM_BYTES[datatype] != len(raw)
        return
    assert size == len(raw)
    assert request.inputs[0].raw == raw
    assert len(values_of(datatype, shape, raw)) == elements_of(shape)


REFUSED = [
    (_request(), "inputs: expected at least one"),
    (_request(_one(data=[1.0, 2.0]) | {"name": ""}), "to have a name"),
    (_request(_one(data=[1.0, 2.0]), _one(data=[1.0, 2.0])), "`x` once, got it 2 times"),
    (_request(_one("FLOAT", data=[1.0, 2.0])), "expected a datatype of BOOL"),
    (_request(_one(shape=[-1], data=[1.0])), "each 0 or more, got [-1]"),
    (_request(_one(shape=[2**63], data=[1.0])), "each 0 or more"),
    (_request(_one(shape=["2"], data=[1.0])), "$.inputs[0].shape"),
    (_request(_one(shape=[3], data=[1.0, 2.0])), "shape [3] has 3 elements, got 2"),
    (_request(_one(shape=[2, 2], data=[[1.0, 2.0], [3.0]])), "2 items at depth 1, got 1"),
    (_request(_one(shape=[2, 2], data=[[1.0, 2.0], 3.0])), "lists at depth 1, got a number"),
    (_request(_one(data=[1.0, "2"])), "expected values of FP32, got a string"),
    (_request(_one(data=[1.0, None])), "expected values of FP32, got null"),
    (_request(_one("INT64", data=[1, 2.5])), "expected values of INT64, got a number"),
    (_request(_one("INT64", data=[1, True])), "expected values of INT64, got a boolean"),
    (_request(_one("BOOL", data=[True, 0])), "expected values of BOOL, got a whole number"),
    (_request(_one("BYTES", data=["a", 0])), "expected values of BYTES, got a whole number"),
    (_request(_one("BF16", data=[1.0, 2.0])), "BF16 has no form in JSON"),
    (_request(_one(data="12")), "data to be a list"),
    (_request(_one()), "either data or binary_data_size, got none"),
    (_request(_one(data=[1.0, 2.0], parameters={"binary_data_size": 8}), raw=b"12345678"), "got both"),
    (_request(_one(parameters={"binary_data_size": True}), raw=b"1"), "a number of bytes, got True"),
    (_request(_one(parameters={"binary_data_size": -8}), raw=b"1"), "a number of bytes, got -8"),
    (_request(_one(parameters={"binary_data_size": 8})), "binary_data_size is 8, 0 bytes are left"),
    (_request(_one(parameters={"binary_data_size": 8}), raw=b"1234567"), "binary_data_size is 8, 7 bytes are left"),
    (_request(_one(parameters={"binary_data_size": 8}), raw=b"123456789"), "name 8 bytes of binary data, 9 follow"),
    (_request(_one(parameters={"binary_data_size": 4}), raw=b"1234"), "FP32 of shape [2] is 8 bytes, got 4"),
    (_request(_one(parameters={"shared_memory_region": "r"})), "shared memory"),
    (_request(_one("BYTES", [3], parameters={"binary_data_size": 9}), raw=bytes_raw([b"a", b""])), "got 9"),
    (_request(_one("BYTES", [1], parameters={"binary_data_size": 5}), raw=struct.pack("<I", 2) + b"a"), "element 0 is 2"),
    (_request(_one("BYTES", [1], parameters={"binary_data_size": 7}), raw=bytes_raw([b"a"]) + b"xx"), "2 bytes follow"),
    (_request(_one("BYTES", [10**9], parameters={"binary_data_size": 4}), raw=b"\0\0\0\0"), "1000000000 lengths"),
    (_request(_one(data=[1.0, 2.0]), outputs=[{"name": "y"}, {"name": "y"}]), "`y` once"),
    (_request(_one(data=[1.0, 2.0]), outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "true or false, got 1"),
    (_request(_one(data=[1.0, 2.0]), outputs=[{"name": "y", "parameters": {"classification": -1}}]), "number of classes"),
    (_request(_one(data=[1.0, 2.0]), parameters={"binary_data_output": "yes"}), "true or false, got 'yes'"),
    ((b"[]", 0), "Expected `object`"),
    ((b"{", 0), "not valid JSON"),
    ((b"{}", 0), "missing required field `inputs`"),
    ((b'{"inputs":[]}', 99), "the JSON has 99 bytes, the whole body 13"),
    ((b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', 0), "not valid JSON"),
    ((b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e999]}]}', 0), "Number out of range"),
    ((b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 100_000, 0), "not valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_does_not_fit_is_refused_by_name_with_expected_and_got(request_: tuple[bytes, int], text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(*request_)
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("datatype", "value"), [("FP32", 1e39), ("FP16", 70000.0), ("INT8", 128), ("UINT8", -1), ("FP64", 10**400)]
)
def test_a_number_too_large_for_its_type_is_refused_not_cut(datatype: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match="does not fit"):
        raw_of(parse(*_request(_one(datatype, [1], data=[value]))).inputs[0])


def test_what_outputs_are_wanted_as() -> None:
    wish = [{"name": "a", "parameters": {"binary_data": False, "classification": 3}}, {"name": "b"}]
    request = parse(*_request(_one(data=[1, 2.5]), outputs=wish, parameters={"binary_data_output": True}, id="7"))
    assert [request.wants_binary(name) for name in ("a", "b", "c")] == [False, True, True]
    assert request.outputs[0].classification == 3
    assert request.id == "7"


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (_request(_one(shape=[100, 32], data=[])), 100),
        (_request(_one(shape=[], data=[])), 1),
        (_request(_one(shape=[0], data=[])), 1),
        ((b'{"inputs":[]}', 0), 1),
        ((b"nonsense", 0), 1),
        (_request(_one(shape=[16, 4], parameters={"binary_data_size": 3}), raw=b"123"), 16),
    ],
)
def test_rows_are_the_first_dimension_of_the_first_input(body: tuple[bytes, int], rows: int) -> None:
    assert rows_of(*body) == rows


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans())
def test_a_head_that_comes_again_means_the_same_with_other_bytes(given_: list[tuple[str, list[int], list[Any]]], all_binary: bool) -> None:  # fmt: skip
    inputs, raws = [], []
    for number, (datatype, shape, values) in enumerate(given_):
        data = None if datatype == "BYTES" else values
        raw = (
            bytes_raw([v.encode() for v in values])
            if data is None
            else bytes(elements_of(shape) * ITEM_BYTES[datatype])
        )
        inputs.append({"name": f"x{number}", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}})  # fmt: skip
        raws.append(raw)
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    body, _ = _request(*inputs, outputs=outputs, parameters={"binary_data_output": all_binary}, raw=b"".join(raws))
    json_bytes = len(body) - sum(map(len, raws))
    first, again = parse(body, json_bytes), parse(bytes(bytearray(body)), json_bytes)
    assert first.form is None or again.form is not None
    assert msgspec.structs.replace(again, form=None) == msgspec.structs.replace(first, form=None)
    assert [raw_of(tensor) for tensor in again.inputs] == raws


def test_a_head_that_comes_again_is_no_excuse_for_wrong_bytes() -> None:
    one = _one("BYTES", (1,), parameters={"binary_data_size": 6})
    body, json_bytes = _request(one, raw=bytes_raw([b"ab"]))
    parse(body, json_bytes)
    assert parse(body, json_bytes).form is not None
    with pytest.raises(InvalidRequest, match="element 0 is 3 bytes"):
        parse(body[:json_bytes] + b"\x03\0\0\0ab", json_bytes)
    for rest in (b"", bytes_raw([b"a"]), bytes_raw([b"abc"])):
        with pytest.raises(InvalidRequest):
            parse(body[:json_bytes] + rest, json_bytes)
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        parse(body, len(body) + 1)


def test_a_head_with_an_id_or_with_values_is_not_kept() -> None:
    raw = struct.pack("<2f", 1, 2)
    binary = _one(parameters={"binary_data_size": 8})
    for head in ({"id": "7"}, {"parameters": {"user": 7}}):
        body, json_bytes = _request(binary, raw=raw, **head)
        assert [parse(body, json_bytes).form for _ in range(3)] == [None] * 3
    values = _one(data=[1, 2]) | {"name": "z"}
    body, json_bytes = _request(binary, values, raw=raw)
    assert [parse(body, json_bytes).form for _ in range(3)] == [None] * 3


def test_what_is_kept_of_a_head_does_not_keep_the_body() -> None:
    body, json_bytes = _request(_one(parameters={"binary_data_size": 8}), raw=struct.pack("<2f", 1, 2))
    kept = bytearray(body)
    view = memoryview(kept).toreadonly()
    parse(bytes(view), json_bytes)
    form = parse(bytes(view), json_bytes).form
    assert form is not None
    referents = gc.get_referents(form._head, form._places)
    assert not any(isinstance(part, memoryview) or part == body for part in referents)
    assert form._head.inputs == []
