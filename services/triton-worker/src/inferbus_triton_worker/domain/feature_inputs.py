"""Requests that bring entity ids instead of tensors: what is asked of the features service, and the inputs made of its answer.
Pure.

A request says so with the parameter `feature_service`. Its inputs that the model does not have are join keys (one with the
parameter `"feature": "context"` is a value for transformations); with one element it holds for every row, so that one user
and many items are one request. Inputs the model has go to it as they are. Every input of the model that is missing is
filled: with the feature of its name, or, one of them (or the one `feature_input` names), with all features beside each
other, in the service's order. A value that is not there is NaN in a floating-point input, and refused in any other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.contracts.features import FeatureColumn, GetAnswer, GetRequest
from inferbus.errors import InvalidRequest
from inferbus.kserve.request import InferRequest
from inferbus.kserve.tensors import BYTES, Tensor, bytes_raw, elements_of, raw_of, values_of
from inferbus_triton_worker.domain.signature import Signature, TensorSpec

SERVICE, INPUT, LOG = "feature_service", "feature_input", "feature_log"
PARAMETERS = (SERVICE, INPUT, LOG)
_ROLE, _CONTEXT = "feature", "context"
_FORMATS = {
    "FP32": "f", "FP64": "d", "FP16": "e", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B",
    "UINT16": "H", "UINT32": "I", "UINT64": "Q", "BOOL": "?",
}  # fmt: skip
_FLOATS = {"FP16", "FP32", "FP64"}


class Wish(msgspec.Struct, frozen=True):
    """What a request says of features. `input` empty: whichever is missing. `is_logged`: what was read and predicted is to be
    kept."""

    service: str
    input: str
    is_logged: bool


def wish_of(request: InferRequest) -> Wish | None:
    """Read what a request wants; None: it brings its tensors itself.

    Raises:
        InvalidRequest: a parameter is unusable.
    """
    service = request.parameters.get(SERVICE)
    if service is None:
        return None
    if type(service) is not str or not service:
        raise InvalidRequest(f"parameter {SERVICE}: expected the name of a feature service", param=SERVICE)
    name, log = request.parameters.get(INPUT, ""), request.parameters.get(LOG, False)
    if type(name) is not str:
        raise InvalidRequest(f"parameter {INPUT}: expected the name of an input", param=INPUT)
    if type(log) is not bool:
        raise InvalidRequest(f"parameter {LOG}: expected true or false", param=LOG)
    return Wish(service, name, log)


def question_of(request: InferRequest, signature: Signature) -> GetRequest:
    """Make what is asked of the features service out of the inputs the model does not have.

    Raises:
        InvalidRequest: there are none, or one is not a list of ids.
    """
    own = {spec.name for spec in signature.inputs}
    entities: dict[str, Any] = {}
    context: dict[str, Any] = {}
    for tensor in request.inputs:
        if tensor.name not in own:
            values = _values(tensor)
            given = context if tensor.parameters.get(_ROLE) == _CONTEXT else entities
            given[tensor.name] = values[0] if len(values) == 1 else values
    if not entities:
        raise InvalidRequest(f"{SERVICE}: expected inputs with the ids of entities, got none", param="inputs")
    return GetRequest(entities=entities, context=context)


def filled(request: InferRequest, signature: Signature, answer: GetAnswer, wish: Wish) -> InferRequest:
    """Put what was read into the inputs that are missing.

    Raises:
        InvalidRequest: it cannot be told which, or a value is missing or of the wrong kind; it names the feature.
    """
    own = {spec.name: spec for spec in signature.inputs}
    given = [tensor for tensor in request.inputs if tensor.name in own]
    names = {tensor.name for tensor in given}
    missing = [
        spec for spec in signature.inputs if spec.name not in names and (not spec.optional or spec.name == wish.input)
    ]
    columns = {column.name: column for column in answer.columns}
    made: list[Tensor] = []
    rest: list[TensorSpec] = []
    for spec in missing:
        column = columns.pop(spec.name, None) if spec.name != wish.input else None
        if column is None:
            rest.append(spec)
        else:
            made.append(_tensor(spec, [column], answer.rows, has_rows=bool(signature.max_rows)))
    if rest:
        target = _target(rest, wish)
        made.append(_tensor(target, list(columns.values()), answer.rows, has_rows=bool(signature.max_rows)))
    parameters = {name: value for name, value in request.parameters.items() if name not in PARAMETERS}
    return msgspec.structs.replace(request, inputs=[*given, *made], parameters=parameters)


def _target(rest: Sequence[TensorSpec], wish: Wish) -> TensorSpec:
    """Choose the input all features go to."""
    chosen = [spec for spec in rest if not wish.input or spec.name == wish.input]
    if len(chosen) == 1 and len(rest) == 1:
        return chosen[0]
    names = ", ".join(f"`{spec.name}`" for spec in rest)
    raise InvalidRequest(
        f"{INPUT}: features can fill one input besides those called as a feature; missing are {names}", param=INPUT
    )


def _tensor(spec: TensorSpec, columns: list[FeatureColumn], rows: int, *, has_rows: bool) -> Tensor:
    """Make an input of columns beside each other: [rows, features], or [rows] of one where the model wants it so."""
    width = len(columns)
    if not width:
        raise InvalidRequest(f"input `{spec.name}`: the service has no feature left for it", param=spec.name)
    is_flat = width == 1 and not (spec.dims if has_rows else spec.dims[1:])
    shape = [rows] if is_flat else [rows, width]
    if spec.datatype == BYTES:
        texts = [_texts(spec, column) for column in columns]
        raw = bytes_raw([text.encode() for row in zip(*texts, strict=True) for text in row])
    else:
        numbers = [_numbers(spec, column) for column in columns]
        flat = numbers[0] if width == 1 else [value for row in zip(*numbers, strict=True) for value in row]
        try:
            raw = struct.pack(f"<{len(flat)}{_FORMATS[spec.datatype]}", *flat)
        except (struct.error, OverflowError, KeyError) as exc:
            raise InvalidRequest(
                f"input `{spec.name}`: features do not fit {spec.datatype}: {exc}", param=spec.name
            ) from exc
    return Tensor(name=spec.name, datatype=spec.datatype, shape=shape, raw=memoryview(raw))


def _numbers(spec: TensorSpec, column: FeatureColumn) -> list[Any]:
    values = column.values
    if None in values:
        if spec.datatype not in _FLOATS:
            raise _no_value(spec, column)
        values = [math.nan if value is None else value for value in values]
    if not all(isinstance(value, int | float) for value in values):
        raise InvalidRequest(
            f"input `{spec.name}`: expected numbers, feature `{column.name}` is {column.kind}", param=column.name
        )
    return values


def _texts(spec: TensorSpec, column: FeatureColumn) -> list[str]:
    if None in column.values:
        raise _no_value(spec, column)
    return [value if isinstance(value, str) else str(value) for value in column.values]


def _no_value(spec: TensorSpec, column: FeatureColumn) -> InvalidRequest:
    row = column.values.index(None)
    return InvalidRequest(
        f"input `{spec.name}`: feature `{column.name}` has no value in row {row}, and no default", param=column.name
    )


def _values(tensor: Tensor) -> list[Any]:
    if elements_of(tensor.shape) != max(tensor.shape, default=1):
        raise InvalidRequest(
            f"input `{tensor.name}`: expected a list of ids, got shape {tensor.shape}", param=tensor.name
        )
    values = values_of(tensor.datatype, tensor.shape, raw_of(tensor)) if tensor.data is None else tensor.data
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
