"""Rows of several requests as one, and the answer's rows back to each. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from inferbus.kserve.response import OutputTensor
from inferbus.kserve.tensors import BYTES, elements_of
from inferbus_triton_worker.ports import InferCall, InferResult, InputTensor

_LENGTH = struct.Struct("<I")

Kind = tuple[object, ...]


class NotDivisible(Exception):
    """The answer's rows are not the requests' rows: the model does something else with them."""


def kind_of(call: InferCall) -> Kind | None:
    """Name what calls must have in common to go as one: everything but their rows; None: this one goes alone."""
    if call.parameters or not call.inputs:
        return None
    inputs = tuple([(tensor.name, tensor.datatype, *tensor.shape[1:]) for tensor in call.inputs])
    outputs = tuple([(output.name, *output.parameters.items()) for output in call.outputs])
    return (call.model, call.version, inputs, outputs)


def join(calls: Sequence[InferCall]) -> InferCall:
    """Make one call of several of a kind."""
    if len(calls) == 1:
        return calls[0]
    first = calls[0]
    rows = sum(call.inputs[0].shape[0] for call in calls)
    inputs = [
        InputTensor(
            tensor.name,
            tensor.datatype,
            [rows, *tensor.shape[1:]],
            b"".join([call.inputs[at].raw for call in calls]),
        )
        for at, tensor in enumerate(first.inputs)
    ]
    return InferCall(
        model=first.model,
        version=first.version,
        request_id=first.request_id,
        inputs=inputs,
        outputs=first.outputs,
        traceparent=first.traceparent,
    )


def split(result: InferResult, rows: Sequence[int]) -> list[InferResult]:
    """Give each request its rows of the answer.

    Raises:
        NotDivisible: an output has not as many rows as went in.
    """
    if len(rows) == 1:
        return [result]
    total = sum(rows)
    parts: list[list[OutputTensor]] = [[] for _ in rows]
    for output in result.outputs:
        if not output.shape or output.shape[0] != total:
            raise NotDivisible(f"output {output.name} has shape {output.shape} for {total} rows")
        ends = _ends(output, rows)
        view, begin = memoryview(output.raw), 0
        for part, count, end in zip(parts, rows, ends, strict=True):
            part.append(
                OutputTensor(
                    name=output.name,
                    datatype=output.datatype,
                    shape=[count, *output.shape[1:]],
                    raw=bytes(view[begin:end]),
                )
            )
            begin = end
    return [InferResult(result.version, part) for part in parts]


def _ends(output: OutputTensor, rows: Sequence[int]) -> list[int]:
    """Give where in the raw bytes each request's rows end."""
    ends, size = [], len(output.raw)
    if output.datatype != BYTES:
        each, rest = divmod(size, output.shape[0])
        if rest:
            raise NotDivisible(f"output {output.name} has {size} bytes for {output.shape[0]} rows")
        at = 0
        for count in rows:
            at += count * each
            ends.append(at)
        return ends
    each, at = elements_of(output.shape[1:]), 0
    for count in rows:
        for _ in range(count * each):
            if at + _LENGTH.size > size:
                raise NotDivisible(f"output {output.name} ends before its elements do")
            at += _LENGTH.size + _LENGTH.unpack_from(output.raw, at)[0]
        ends.append(at)
    if at != size:
        raise NotDivisible(f"output {output.name} has {size} bytes, its elements {at}")
    return ends
