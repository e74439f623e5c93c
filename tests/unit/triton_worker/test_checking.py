from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.triton_worker.fakes import DOUBLE, FakeTriton

from inferbus.errors import InvalidRequest
from inferbus.kserve.request import InferRequest, parse
from inferbus_triton_worker.catalog import Catalog
from inferbus_triton_worker.domain.checking import check_request, rows_of
from inferbus_triton_worker.domain.probing import probe_of
from inferbus_triton_worker.domain.signature import Signature, TensorSpec

TWO = Signature(
    name="two",
    versions=("1",),
    inputs=(
        TensorSpec("A", "FP32", (-1,)),
        TensorSpec("B", "BYTES", (1,)),
        TensorSpec("C", "BOOL", (1,), optional=True),
    ),
    outputs=(TensorSpec("Y", "FP32", (1,)),),
    max_rows=4,
)


def request_of(*tensors: tuple[str, str, list[int]], **more: Any) -> InferRequest:
    def data(datatype: str, count: int) -> list[Any]:
        return [{"BYTES": "x", "BOOL": True}.get(datatype, 0)] * count

    inputs = []
    for name, datatype, shape in tensors:
        count = 1
        for size in shape:
            count *= size
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": data(datatype, count)})
    return parse(msgspec.json.encode({"inputs": inputs} | more), 0)


GOOD = (("A", "FP32", [2, 7]), ("B", "BYTES", [2, 1]))


def test_what_fits_is_let_through() -> None:
    check_request(TWO, request_of(*GOOD))
    check_request(TWO, request_of(*GOOD, ("C", "BOOL", [2, 1])))
    assert rows_of(TWO, request_of(*GOOD).inputs) == 2


@pytest.mark.parametrize(
    ("tensors", "more", "words"),
    [
        (GOOD[:1], {}, ["input `B`", "BYTES", "[-1,1]", "got none"]),
        ((*GOOD, ("D", "FP32", [2, 1])), {}, ["input `D`", "`A`, `B`, `C`"]),
        ((("A", "FP64", [2, 7]), GOOD[1]), {}, ["input `A`", "FP32", "FP64"]),
        ((("A", "FP32", [2]), GOOD[1]), {}, ["input `A`", "[-1,-1]", "[2]"]),
        ((GOOD[0], ("B", "BYTES", [2, 2])), {}, ["input `B`", "[-1,1]", "[2,2]"]),
        ((("A", "FP32", [5, 1]), ("B", "BYTES", [5, 1])), {}, ["input `A`", "1 to 4 rows", "5"]),
        ((("A", "FP32", [0, 1]), ("B", "BYTES", [0, 1])), {}, ["1 to 4 rows", "got 0"]),
        ((GOOD[0], ("B", "BYTES", [3, 1])), {}, ["input `B`", "2 rows", "got 3"]),
        (GOOD, {"outputs": [{"name": "Z"}]}, ["output `Z`", "`Y`"]),
        (GOOD, {"parameters": {"triton_enable_empty_final_response": True}}, ["triton_"]),
    ],
)
def test_what_does_not_fit_is_refused_with_field_expected_and_got(
    tensors: tuple[tuple[str, str, list[int]], ...], more: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(TWO, request_of(*tensors, **more))
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_sequence_must_be_named() -> None:
    signature = msgspec.structs.replace(TWO, sequential=True)
    with pytest.raises(InvalidRequest, match="sequence_id"):
        check_request(signature, request_of(*GOOD))
    check_request(signature, request_of(*GOOD, parameters={"sequence_id": 7}))


def test_a_model_without_rows_takes_its_shape_exactly() -> None:
    signature = msgspec.structs.replace(DOUBLE, max_rows=0)
    check_request(signature, request_of(("X", "FP32", [2])))
    with pytest.raises(InvalidRequest, match=r"expected shape \[2\], got \[1,2\]"):
        check_request(signature, request_of(("X", "FP32", [1, 2])))
    assert rows_of(signature, request_of(("X", "FP32", [2])).inputs) == 1


def test_a_probe_fits_its_own_model() -> None:
    probe = probe_of(TWO)
    assert probe is not None
    assert [(tensor.name, tensor.shape, len(tensor.raw)) for tensor in probe.inputs] == [
        ("A", [1, 1], 4),
        ("B", [1, 1], 4),
    ]
    assert probe_of(msgspec.structs.replace(TWO, sequential=True)) is None


async def test_a_request_is_not_refused_by_what_was_known_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeTriton()
    catalog = Catalog(server)
    await catalog.checked("double", "", request_of(("X", "FP32", [1, 2])))
    wider = (TensorSpec("X", "FP32", (3,)),)
    server.signatures["double"] = msgspec.structs.replace(DOUBLE, inputs=wider)
    with pytest.raises(InvalidRequest):  # what was asked a moment ago is believed
        await catalog.checked("double", "", request_of(("X", "FP32", [1, 3])))
    monkeypatch.setattr("inferbus_triton_worker.catalog._FRESH_S", 0.0)
    await catalog.checked("double", "", request_of(("X", "FP32", [1, 3])))
    assert server.asked == 2


async def test_a_form_that_fitted_is_compared_again_with_what_the_model_takes_now() -> None:
    server = FakeTriton()
    catalog = Catalog(server)
    head = b'{"inputs":[{"name":"X","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    for _ in range(3):
        request = parse(head + bytes(8), len(head))
        await catalog.checked("double", "", request)
    assert request.form is not None
    assert server.asked == 1
    server.signatures["double"] = msgspec.structs.replace(DOUBLE, inputs=(TensorSpec("X", "FP32", (3,)),))
    catalog.forget("double")
    with pytest.raises(InvalidRequest, match="expected shape"):
        await catalog.checked("double", "", parse(head + bytes(8), len(head)))
