"""Whether a request fits its model: names, types, shapes and rows. What is refused here never reaches the server.

The request's own form (lengths, elements, values) is `inferbus.kserve`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from inferbus.errors import InvalidRequest
from inferbus.kserve.request import InferRequest, RequestedOutput
from inferbus.kserve.tensors import Tensor, shape_text
from inferbus_triton_worker.domain.signature import Signature, TensorSpec

_OURS = "triton_"


def rows_of(signature: Signature, tensors: Sequence[Tensor]) -> int:
    """Give a request's rows: the first dimension of the first input, 1 where the model has no rows."""
    shape = tensors[0].shape if tensors else []
    return max(1, shape[0]) if signature.max_rows and shape else 1


def check_request(signature: Signature, request: InferRequest) -> None:
    """Compare a request with what its model takes.

    Raises:
        InvalidRequest: it names the tensor, what was expected and what came.
    """
    _check_inputs(signature, request.inputs)
    _check_outputs(signature, request.outputs)
    for name in request.parameters:
        if name.startswith(_OURS):
            raise InvalidRequest(f"parameter `{name}`: names that begin with {_OURS} are the server's", param=name)
    if signature.sequential and not request.parameters.get("sequence_id"):
        raise InvalidRequest(
            f"model `{signature.name}` works on sequences: expected parameter sequence_id, a number or text, got none",
            param="sequence_id",
        )


def _check_inputs(signature: Signature, tensors: Sequence[Tensor]) -> None:
    specs = {spec.name: spec for spec in signature.inputs}
    for tensor in tensors:
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidRequest(
                f"input `{tensor.name}`: model `{signature.name}` has no such input, it has {_names(signature.inputs)}",
                param=tensor.name,
            )
        if tensor.datatype != spec.datatype:
            raise InvalidRequest(
                f"input `{tensor.name}`: expected {spec.datatype}, got {tensor.datatype}", param=tensor.name
            )
        _check_shape(signature, spec, tensor)
    given = {tensor.name for tensor in tensors}
    for spec in signature.inputs:
        if spec.name not in given and not spec.optional:
            raise InvalidRequest(
                f"input `{spec.name}`: expected {spec.datatype} of shape {_wanted(signature, spec)}, got none",
                param=spec.name,
            )
    _check_same_rows(signature, tensors, specs)


def _check_shape(signature: Signature, spec: TensorSpec, tensor: Tensor) -> None:
    shape = tensor.shape
    if signature.max_rows:
        rows, dims = (shape[0], shape[1:]) if shape else (-1, [])
    else:
        rows, dims = 1, shape
    fits = len(dims) == len(spec.dims) and all(want in (-1, got) for want, got in zip(spec.dims, dims, strict=True))
    if not fits or rows < 0:
        raise InvalidRequest(
            f"input `{tensor.name}`: expected shape {_wanted(signature, spec)}, got {shape_text(shape)}",
            param=tensor.name,
        )
    if signature.max_rows and not 1 <= rows <= signature.max_rows:
        raise InvalidRequest(
            f"input `{tensor.name}`: expected 1 to {signature.max_rows} rows, got {rows}", param=tensor.name
        )


def _check_same_rows(signature: Signature, tensors: Sequence[Tensor], specs: dict[str, TensorSpec]) -> None:
    if not signature.max_rows:
        return
    even = [tensor for tensor in tensors if not specs[tensor.name].ragged]
    for tensor in even[1:]:
        if tensor.shape[0] != even[0].shape[0]:
            raise InvalidRequest(
                f"input `{tensor.name}`: expected {even[0].shape[0]} rows, as `{even[0].name}` has, got {tensor.shape[0]}",
                param=tensor.name,
            )


def _check_outputs(signature: Signature, outputs: Sequence[RequestedOutput]) -> None:
    known = {spec.name for spec in signature.outputs}
    for output in outputs:
        if output.name not in known:
            raise InvalidRequest(
                f"output `{output.name}`: model `{signature.name}` has no such output, it has {_names(signature.outputs)}",
                param=output.name,
            )


def _wanted(signature: Signature, spec: TensorSpec) -> str:
    return shape_text((-1, *spec.dims) if signature.max_rows else spec.dims)


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}`" for spec in specs)
