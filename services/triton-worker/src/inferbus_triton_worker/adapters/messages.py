"""gRPC messages of Triton, from and into this worker's own types. Tensors stay the bytes they are."""

from __future__ import annotations

import re
from typing import Any

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2

from inferbus.kserve.response import OutputTensor
from inferbus_triton_worker.domain.signature import Signature, TensorSpec
from inferbus_triton_worker.ports import (
    Busy,
    InferCall,
    InferResult,
    ModelDead,
    Refused,
    Scalar,
    ServerError,
    TimedOut,
)

_DEAD = re.compile(r"Stub process '(?P<stub>.+?)' is not healthy")
_FINAL = "triton_final_response"
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNIMPLEMENTED: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,  # of this client's or the server's message sizes
}


def request_of(call: InferCall) -> Any:
    """Write a call as the server's message."""
    request = service_pb2.ModelInferRequest(model_name=call.model, model_version=call.version, id=call.request_id)
    for tensor in call.inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.raw)
    for output in call.outputs:
        added = request.outputs.add(name=output.name)
        _set_all(added.parameters, output.parameters)
    if call.parameters:
        _set_all(request.parameters, call.parameters)
    return request


def result_of(response: Any) -> InferResult:
    """Read the server's answer."""
    raws = response.raw_output_contents
    outputs = [
        OutputTensor(name=output.name, datatype=output.datatype, shape=list(output.shape), raw=raw)
        for output, raw in zip(response.outputs, raws, strict=False)
    ]
    final = bool(response.parameters) and response.parameters[_FINAL].bool_param
    return InferResult(response.model_version, outputs, final)


def signature_of(metadata: Any, config: Any) -> Signature:
    """Read what a model takes and gives from its metadata (which versions) and its configuration (the rest)."""
    return Signature(
        name=config.name,
        versions=tuple(metadata.versions),
        inputs=tuple(_spec_of(given) for given in config.input),
        outputs=tuple(_spec_of(given) for given in config.output),
        max_rows=config.max_batch_size,
        decoupled=config.model_transaction_policy.decoupled,
        sequential=config.HasField("sequence_batching"),
        cached=config.response_cache.enable,
        instances=sum(group.count for group in config.instance_group) or 1,
    )


def error_of(error: grpc.aio.AioRpcError) -> ServerError:
    """Translate what a call ended in. A server that is gone and one that is busy say the same: `Busy`."""
    return error_from(error.code(), error.details() or "")


def error_from(code: grpc.StatusCode, message: str) -> ServerError:
    if model := dead_model(message):
        return ModelDead(message, model)
    if code == grpc.StatusCode.UNAVAILABLE:
        return Busy(message)
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return TimedOut(message)
    return Refused(message, _STATUS.get(code, 500))


def dead_model(message: str) -> str:
    """Name the model whose process is gone, if that is what a message says."""
    dead = _DEAD.search(message)
    return (
        dead["stub"].rsplit("_", 2)[0] if dead is not None else ""
    )  # the process is named <model>_<instance>_<device>


def _spec_of(given: Any) -> TensorSpec:
    datatype = model_config_pb2.DataType.Name(given.data_type).removeprefix("TYPE_")
    return TensorSpec(
        name=given.name,
        datatype="BYTES" if datatype == "STRING" else datatype,
        dims=tuple(given.dims),
        optional=getattr(given, "optional", False),
        ragged=getattr(given, "allow_ragged_batch", False),
    )


def _set_all(parameters: Any, values: dict[str, Scalar]) -> None:
    for name, value in values.items():
        if isinstance(value, bool):
            parameters[name].bool_param = value
        elif isinstance(value, int):
            parameters[name].int64_param = value
        elif isinstance(value, float):
            parameters[name].double_param = value
        else:
            parameters[name].string_param = value
