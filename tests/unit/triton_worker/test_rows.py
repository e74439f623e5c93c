from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.triton_worker.fakes import call_of

from inferbus.kserve.response import OutputTensor
from inferbus.kserve.tensors import bytes_raw, values_of
from inferbus_triton_worker.domain.rows import NotDivisible, join, kind_of, split
from inferbus_triton_worker.ports import InferResult, InputTensor


@given(
    st.lists(
        st.lists(st.lists(st.binary(max_size=9), min_size=2, max_size=2), min_size=1, max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_rows_of_bytes_come_back_to_whom_they_belong(requests: list[list[list[bytes]]]) -> None:
    calls = [
        call_of(inputs=[InputTensor("T", "BYTES", [len(rows), 2], bytes_raw([item for row in rows for item in row]))])
        for rows in requests
    ]
    whole = join(calls).inputs[0]
    assert whole.shape == [sum(map(len, requests)), 2]
    answer = InferResult("1", [OutputTensor(name="Y", datatype="BYTES", shape=whole.shape, raw=whole.raw)])
    parts = split(answer, [len(rows) for rows in requests])
    for rows, part in zip(requests, parts, strict=True):
        output = part.outputs[0]
        assert output.shape == [len(rows), 2]
        assert values_of("BYTES", output.shape, output.raw) == [item for row in rows for item in row]


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=6))
def test_rows_of_numbers_come_back_to_whom_they_belong(requests: list[list[int]]) -> None:
    calls = [
        call_of(inputs=[InputTensor("N", "INT32", [len(rows), 1], struct.pack(f"<{len(rows)}i", *rows))])
        for rows in requests
    ]
    whole = join(calls).inputs[0]
    parts = split(
        InferResult("1", [OutputTensor(name="Y", datatype="INT32", shape=whole.shape, raw=whole.raw)]),
        [len(rows) for rows in requests],
    )
    assert [values_of("INT32", part.outputs[0].shape, part.outputs[0].raw) for part in parts] == requests


@pytest.mark.parametrize(
    "output",
    [
        OutputTensor(name="Y", datatype="FP32", shape=[1], raw=bytes(4)),
        OutputTensor(name="Y", datatype="FP32", shape=[3, 1], raw=bytes(13)),
        OutputTensor(name="Y", datatype="BYTES", shape=[3, 1], raw=bytes(8)),
        OutputTensor(name="Y", datatype="BYTES", shape=[3, 1], raw=bytes(16)),
        OutputTensor(name="Y", datatype="FP32", shape=[], raw=bytes(4)),
    ],
)
def test_an_answer_that_has_not_the_rows_is_not_divided(output: OutputTensor) -> None:
    with pytest.raises(NotDivisible):
        split(InferResult("1", [output]), [1, 2])


def test_only_requests_that_differ_in_nothing_but_their_rows_go_together() -> None:
    assert kind_of(call_of(1)) == kind_of(call_of(3, first=9))
    assert kind_of(call_of(1)) != kind_of(call_of(1, version="2"))
    wider = [InputTensor("X", "FP32", [1, 3], bytes(12))]
    assert kind_of(call_of(1)) != kind_of(call_of(1, inputs=wider))
    assert kind_of(call_of(1, parameters={"sequence_id": 7})) is None
