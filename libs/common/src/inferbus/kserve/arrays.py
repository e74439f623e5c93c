"""numpy arrays as tensors, for clients. Imports numpy only when it is used: services pass bytes on and need none."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from inferbus.errors import InvalidRequest
from inferbus.kserve.response import read as read_response
from inferbus.kserve.tensors import BF16, BYTES, Tensor, bytes_raw, raw_of, values_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}


def write(
    inputs: Mapping[str, ArrayLike], *, outputs: Sequence[str] = (), parameters: Mapping[str, Any] | None = None
) -> tuple[bytes, int]:
    """Write a request whose tensors are raw, in and out; gives the body and the length of its JSON.

    Strings and bytes (arrays of objects, too) become BYTES. No outputs named: all of the model's.

    Raises:
        InvalidRequest: an array has a type the protocol has not; `param` names it.
    """
    heads, raws = [], []
    for name, given in inputs.items():
        datatype, shape, raw = _raw(name, given)
        heads.append({"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}})
        raws.append(raw)
    head: dict[str, Any] = {"inputs": heads, "parameters": {**(parameters or {}), "binary_data_output": True}}
    if outputs:
        head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    json = msgspec.json.encode(head)
    return b"".join([json, *raws]), len(json)


def read(body: bytes, json_bytes: int) -> dict[str, NDArray[Any]]:
    """Read an answer as arrays by name. Raw numbers are views of the body, not copied (and so cannot be written to); BYTES
    are arrays of bytes.

    Raises:
        InferbusError: it is no answer of inference.
    """
    return {tensor.name: _array(tensor) for tensor in read_response(body, json_bytes).outputs}


def _raw(name: str, given: ArrayLike) -> tuple[str, list[int], bytes]:
    import numpy as np  # noqa: PLC0415 - only clients with arrays need it

    array: NDArray[Any] = np.asarray(given)
    shape = list(array.shape)
    if array.dtype.kind in "OSU":
        return BYTES, shape, bytes_raw([_encoded(name, item) for item in array.ravel().tolist()])
    datatype = _DATATYPES.get(array.dtype.name)
    if datatype is None:
        raise InvalidRequest(f"input `{name}`: an array of {array.dtype} has no tensor type", param=name)
    return datatype, shape, np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _encoded(name: str, item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    raise InvalidRequest(
        f"input `{name}`: an array of objects has texts or bytes, got {type(item).__name__}", param=name
    )


def _array(tensor: Tensor) -> NDArray[Any]:
    import numpy as np  # noqa: PLC0415 - only clients with arrays need it

    raw = raw_of(tensor)
    if tensor.datatype == BYTES:
        items = np.empty(len(values := values_of(BYTES, tensor.shape, raw)), np.object_)
        items[:] = values
        return items.reshape(tensor.shape)
    if tensor.datatype == BF16:
        return np.array(values_of(BF16, tensor.shape, raw), np.float32).reshape(tensor.shape)
    dtype: np.dtype[Any] = np.dtype(_DTYPES[tensor.datatype]).newbyteorder("<")
    array = np.frombuffer(raw, dtype).reshape(tensor.shape)
    return array if sys.byteorder == "little" else array.astype(dtype.newbyteorder("="))
