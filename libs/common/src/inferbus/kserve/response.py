"""An answer of inference: written from raw outputs, and read again by clients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.errors import InferbusError, InvalidRequest, Unsupported
from inferbus.kserve.request import InferRequest
from inferbus.kserve.tensors import BYTES, ITEM_BYTES, Tensor, check_raw, flat, values_of

_SIZE = "binary_data_size"
_FLOATS = ("FP16", "FP32", "FP64", "BF16")


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An output as a server gave it: raw bytes."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes | memoryview
    parameters: dict[str, Any] = {}


class InferResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as a client reads it."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Tensor]
    parameters: dict[str, Any] = {}


class _Written(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Answer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Written] = msgspec.field(default_factory=list)


_decode = msgspec.json.Decoder(_Answer).decode


def write(
    model: str, version: str, id_: str, outputs: Sequence[OutputTensor], wanted: InferRequest
) -> tuple[bytes, int]:
    """Write an answer with each output as `wanted` has it; gives the body and the length of its JSON, 0 where all of it is.

    Raises:
        Unsupported: an output cannot be written as JSON (not finite, not text); as raw bytes it can.
        InvalidRequest: an output is not what its shape says.
    """
    heads, raws = [], []
    for output in outputs:
        if wanted.wants_binary(output.name):
            check_raw(output.name, output.datatype, output.shape, output.raw)
            parameters = output.parameters | {_SIZE: len(output.raw)}
            heads.append(_Written(output.name, output.datatype, output.shape, parameters))
            raws.append(output.raw)
        else:
            heads.append(_Written(output.name, output.datatype, output.shape, output.parameters, _json_values(output)))
    head = msgspec.json.encode(_Answer(model, version, id_, {}, heads))
    return (b"".join([head, *raws]), len(head)) if raws else (head, 0)


def read(body: bytes, json_bytes: int) -> InferResponse:
    """Read an answer; raw outputs are slices of it.

    Raises:
        InferbusError: it is not one.
    """
    try:
        answer = _decode(memoryview(body)[:json_bytes] if json_bytes else body)
        rest, at, outputs = memoryview(body)[json_bytes:] if json_bytes else memoryview(b""), 0, []
        for given in answer.outputs:
            tensor = _output(given, rest, at)
            at += len(tensor.raw) if tensor.raw is not None else 0
            outputs.append(tensor)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidRequest) as exc:
        raise InferbusError(f"the answer is not KServe v2: {exc}") from exc
    return InferResponse(
        model_name=answer.model_name, model_version=answer.model_version, id=answer.id, outputs=outputs,
        parameters=answer.parameters,
    )  # fmt: skip


def _output(given: _Written, rest: memoryview, at: int) -> Tensor:
    name, datatype, shape = given.name, given.datatype, given.shape
    if datatype not in ITEM_BYTES and datatype != BYTES:
        raise InvalidRequest(f"output `{name}` has datatype {datatype!r}", param=name)
    size = given.parameters.get(_SIZE)
    if size is None:
        values = flat(name, datatype, shape, given.data or [])
        return Tensor(name=name, datatype=datatype, shape=shape, parameters=given.parameters, data=values)
    if type(size) is not int or not 0 <= size <= len(rest) - at:
        raise InvalidRequest(f"output `{name}`: {_SIZE} is {size!r}, {len(rest) - at} bytes are left", param=name)
    raw = rest[at : at + size]
    check_raw(name, datatype, shape, raw)
    return Tensor(name=name, datatype=datatype, shape=shape, parameters=given.parameters, raw=raw)


def _json_values(output: OutputTensor) -> list[Any]:
    values = values_of(output.datatype, output.shape, output.raw)
    if output.datatype in _FLOATS:
        if not all(map(math.isfinite, values)):
            raise _not_json(output.name, "has numbers that are not finite")
    elif output.datatype == BYTES:
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError:
            raise _not_json(output.name, "is not text in UTF-8") from None
    return values


def _not_json(name: str, why: str) -> Unsupported:
    return Unsupported(f"output `{name}` {why}, which JSON cannot have: ask for it with binary_data", param=name)
