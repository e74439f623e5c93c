"""Generating: a model's answers as a stream of events, or its one answer (Triton's generate extension). The body is either a
request of inference, and each event an answer of it, or an object of plain values by input, and each event one of plain
values by output. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.errors import InvalidRequest
from inferbus.kserve.request import InferRequest
from inferbus.kserve.response import OutputTensor
from inferbus.kserve.tensors import BYTES, Tensor, flat, values_of
from inferbus_triton_worker.domain.signature import Signature, TensorSpec

_ID, _PARAMETERS, _INPUTS = "id", "parameters", "inputs"


def is_plain(body: bytes, json_bytes: int) -> bool:
    """Say whether a body is an object of plain values.

    Raises:
        InvalidRequest: it is no JSON object.
    """
    if json_bytes:
        return False
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidRequest("expected the body to be an object")
    given = value.get(_INPUTS)
    return not (isinstance(given, list) and given and isinstance(given[0], dict))


def plain_request(signature: Signature, body: bytes) -> InferRequest:
    """Make a request of plain values by input; one value is a tensor of one element.

    Raises:
        InvalidRequest: a name is no input of the model, or a value does not fit it.
    """
    values: dict[str, Any] = msgspec.json.decode(body)
    parameters = values.pop(_PARAMETERS, {})
    request_id = values.pop(_ID, "")
    if not isinstance(parameters, dict) or not isinstance(request_id, str):
        raise InvalidRequest("expected parameters to be an object and id a string")
    specs = {spec.name: spec for spec in signature.inputs}
    inputs = []
    for name, value in values.items():
        if name not in specs:
            known = ", ".join(f"`{known}`" for known in specs)
            raise InvalidRequest(f"`{name}`: model `{signature.name}` has no such input, it has {known}", param=name)
        inputs.append(_tensor(signature, specs[name], value))
    return InferRequest(id=request_id, inputs=inputs, parameters=parameters)


def plain_answer(model: str, version: str, outputs: Sequence[OutputTensor]) -> bytes:
    """Write one answer; an output of one element is the element.

    Raises:
        InvalidRequest: an output's bytes are not its shape.
    """
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    for output in outputs:
        values = values_of(output.datatype, output.shape, output.raw)
        if output.datatype == BYTES:
            values = [value.decode(errors="replace") for value in values]
        answer[output.name] = values[0] if len(values) == 1 else values
    return msgspec.json.encode(answer)


def event_of(data: bytes) -> bytes:
    """Write data as one event of a stream."""
    return b"data: %b\n\n" % data


def _tensor(signature: Signature, spec: TensorSpec, value: Any) -> Tensor:
    data = value if isinstance(value, list) else [value]
    dims = [size if size != -1 else len(data) for size in spec.dims]
    shape = [1, *dims] if signature.max_rows else dims
    nested = [data] if signature.max_rows and len(shape) > 1 and data and isinstance(data[0], list) else data
    return Tensor(
        name=spec.name, datatype=spec.datatype, shape=shape, data=flat(spec.name, spec.datatype, shape, nested)
    )
