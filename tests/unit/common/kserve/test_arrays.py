"""numpy arrays as tensors and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.errors import InferbusError, InvalidRequest
from inferbus.kserve import arrays
from inferbus.kserve.request import parse
from inferbus.kserve.response import OutputTensor
from inferbus.kserve.response import write as write_answer
from inferbus.kserve.tensors import raw_of

_KINDS = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"]


def echoed(body: bytes, json_bytes: int) -> dict[str, np.ndarray]:
    """Answer a request with its own inputs."""
    request = parse(body, json_bytes)
    outputs = [
        OutputTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, raw=raw_of(tensor))
        for tensor in request.inputs
    ]
    return arrays.read(*write_answer("m", "1", request.id, outputs, request))


@given(st.sampled_from(_KINDS), st.lists(st.integers(0, 3), max_size=3), st.randoms(use_true_random=False))
def test_numbers_come_back_bit_by_bit(kind: str, shape: list[int], random: object) -> None:
    dtype = np.dtype(kind)
    raw = random.randbytes(math.prod(shape) * dtype.itemsize)  # type: ignore[attr-defined]  # NaN and infinities, too
    array = np.frombuffer(raw, np.uint8).reshape([*shape, dtype.itemsize]).view(dtype).reshape(shape)
    if kind == "?":
        array = array.view(np.uint8).astype(bool)
    back = echoed(*arrays.write({"x": array.T if array.ndim > 1 else array}))["x"]
    expected = array.T if array.ndim > 1 else array
    assert back.shape == expected.shape
    assert back.dtype == dtype.newbyteorder("=")
    assert back.tobytes() == expected.astype(dtype.newbyteorder("=")).tobytes()


@given(st.lists(st.one_of(st.text(max_size=5), st.binary(max_size=5)), max_size=5))
def test_texts_and_bytes_come_back_as_bytes(items: list[str | bytes]) -> None:
    given_ = np.empty(len(items), np.object_)
    given_[:] = items
    back = echoed(*arrays.write({"x": given_}))["x"]
    assert back.tolist() == [item.encode() if isinstance(item, str) else item for item in items]


def test_lists_are_arrays_and_several_inputs_keep_their_names() -> None:
    back = echoed(*arrays.write({"a": [[1, 2], [3, 4]], "b": ["x"], "c": np.array([b"ab"])}, outputs=["a"]))
    assert back["a"].tolist() == [[1, 2], [3, 4]]
    assert (back["b"].tolist(), back["c"].tolist()) == ([b"x"], [b"ab"])


@pytest.mark.parametrize(
    "array", [np.ones(1, np.complex64), np.array([1, "a", None], np.object_), np.array(["now"], "M8")]
)
def test_what_has_no_tensor_type_is_refused_by_name(array: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match="input `x`"):
        arrays.write({"x": array})


def test_an_answer_in_json_is_read_too() -> None:
    body = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2,1],"data":[0.5,2]}]}'
    assert arrays.read(body, 0)["y"].tolist() == [[0.5], [2.0]]
    with pytest.raises(InferbusError, match="not KServe v2"):
        arrays.read(b"{}", 0)
