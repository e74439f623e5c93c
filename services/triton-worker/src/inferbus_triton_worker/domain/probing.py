"""The smallest request a model takes: zeros, one of everything. Pure."""

from __future__ import annotations

from inferbus.kserve.tensors import BYTES, ITEM_BYTES, elements_of
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import InferCall, InputTensor

_LENGTH_BYTES = 4


def probe_of(signature: Signature) -> InferCall | None:
    """Make it; None where a model cannot be asked without a meaning (sequences)."""
    if signature.sequential:
        return None
    inputs = []
    for spec in signature.inputs:
        if spec.optional:
            continue
        dims = [max(1, size) for size in spec.dims]
        shape = [1, *dims] if signature.max_rows else dims
        each = _LENGTH_BYTES if spec.datatype == BYTES else ITEM_BYTES[spec.datatype]
        inputs.append(InputTensor(spec.name, spec.datatype, shape, bytes(each * elements_of(shape))))
    return InferCall(model=signature.name, version="", request_id="probe", inputs=inputs)
