"""How many tokens the texts of a request for embeddings were."""

from __future__ import annotations

import struct

import pytest

from inferbus.kserve.response import OutputTensor
from inferbus_triton_worker.domain.embeddings import token_output_of, tokens_of
from inferbus_triton_worker.domain.signature import Signature, TensorSpec

VECTOR = TensorSpec("V", "FP32", (3,))


def signature(*outputs: TensorSpec) -> Signature:
    return Signature(name="m", versions=("1",), inputs=(TensorSpec("T", "BYTES", (1,)),), outputs=outputs, max_rows=4)


@pytest.mark.parametrize(("datatype", "code"), [("INT32", "i"), ("INT64", "q")])
def test_tokens_of_all_parts_are_added_up(datatype: str, code: str) -> None:
    spec = TensorSpec("TOKENS", datatype, (1,))
    assert token_output_of(signature(VECTOR, spec)) == spec
    parts = [struct.pack(f"<2{code}", 7, 256), struct.pack(f"<1{code}", 3)]
    told = [OutputTensor(name="TOKENS", datatype=datatype, shape=[len(raw), 1], raw=raw) for raw in parts]
    assert tokens_of(told) == 266


@pytest.mark.parametrize(
    "outputs", [(VECTOR,), (VECTOR, TensorSpec("TOKENS", "FP32", (1,))), (VECTOR, TensorSpec("TOKENS", "INT32", (2,)))]
)
def test_a_model_that_does_not_say_has_none(outputs: tuple[TensorSpec, ...]) -> None:
    assert token_output_of(signature(*outputs)) is None
