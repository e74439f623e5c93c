"""`/v1/embeddings` by a model of text to vectors: OpenAI's body in, tensors, OpenAI's body out. Pure."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from inferbus.errors import InferbusError, InvalidRequest, Unsupported
from inferbus.kserve.response import OutputTensor
from inferbus.kserve.tensors import BYTES, bytes_raw
from inferbus_triton_worker.domain.signature import Signature, TensorSpec
from inferbus_triton_worker.ports import InputTensor

MAX_INPUTS = 2048
_FLOAT, _BASE64 = "float", "base64"
_FP32_BYTES = 4
_TOKENS = "TOKENS"
_COUNTS = {"INT32": struct.Struct("<i"), "INT64": struct.Struct("<q")}


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    texts: list[str]
    encoding: str
    model: str


class _Body(msgspec.Struct):
    input: Any
    model: str = ""
    encoding_format: str = _FLOAT
    dimensions: int | None = None
    user: str | None = None


class _Item(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class _Answer(msgspec.Struct):
    model: str
    data: list[_Item]
    usage: _Usage
    object: str = "list"


_decode = msgspec.json.Decoder(_Body).decode


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Read OpenAI's body.

    Raises:
        InvalidRequest, Unsupported: the message names the field.
    """
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not a request for embeddings: {exc}") from exc
    texts = [given.input] if isinstance(given.input, str) else given.input
    if not isinstance(texts, list) or not texts:
        raise InvalidRequest("input: expected a text or a list of at least one text", param="input")
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("input: expected texts; this model does not take token ids", param="input")
    if len(texts) > MAX_INPUTS:
        raise InvalidRequest(f"input: expected at most {MAX_INPUTS} texts, got {len(texts)}", param="input")
    if not all(texts):
        raise InvalidRequest("input: expected every text to have a character", param="input")
    if given.encoding_format not in (_FLOAT, _BASE64):
        raise InvalidRequest(
            f"encoding_format: expected float or base64, got {given.encoding_format!r}", param="encoding_format"
        )
    if given.dimensions is not None:
        raise Unsupported("dimensions: this model has vectors of one size only", param="dimensions")
    return EmbeddingsRequest(texts, given.encoding_format, given.model)


def text_input_of(signature: Signature) -> TensorSpec:
    """Give the one input that texts go into.

    Raises:
        Unsupported: the model is not one of text to vectors.
    """
    texts = [spec for spec in signature.inputs if not spec.optional]
    if len(texts) == 1 and texts[0].datatype == BYTES and texts[0].dims in ((1,), (-1,)) and signature.max_rows:
        return texts[0]
    raise Unsupported(f"The model `{signature.name}` does not make vectors of texts.", param="model")


def vector_output_of(signature: Signature) -> TensorSpec:
    """Give the one output that vectors come from.

    Raises:
        Unsupported: the model is not one of text to vectors.
    """
    vectors = [spec for spec in signature.outputs if spec.datatype == "FP32" and len(spec.dims) == 1]
    if len(vectors) == 1:
        return vectors[0]
    raise Unsupported(f"The model `{signature.name}` does not make vectors of texts.", param="model")


def token_output_of(signature: Signature) -> TensorSpec | None:
    """Give the output that says how many tokens each text was, if the model has one."""
    for spec in signature.outputs:
        if spec.name == _TOKENS and spec.datatype in _COUNTS and spec.dims == (1,):
            return spec
    return None


def tokens_of(counts: Sequence[OutputTensor]) -> int:
    """Add up the tokens of all texts."""
    return sum(count for output in counts for (count,) in _COUNTS[output.datatype].iter_unpack(output.raw))


def text_tensors(spec: TensorSpec, texts: Sequence[str], max_rows: int) -> Iterator[tuple[InputTensor, int]]:
    """Give the texts in tensors of at most `max_rows`, with each one's rows."""
    for at in range(0, len(texts), max_rows):
        part = [text.encode(errors="replace") for text in texts[at : at + max_rows]]
        yield InputTensor(spec.name, spec.datatype, [len(part), 1], bytes_raw(part)), len(part)


def write_embeddings(request: EmbeddingsRequest, model: str, vectors: Sequence[OutputTensor], tokens: int) -> bytes:
    """Write OpenAI's answer of the vectors, which come in the order of the texts."""
    items: list[_Item] = []
    for output in vectors:
        each = output.shape[-1] * _FP32_BYTES
        view = memoryview(output.raw)
        if output.datatype != "FP32" or len(view) != output.shape[0] * each:
            raise InferbusError(f"output {output.name} is no matrix of FP32")
        for at in range(0, len(view), each):
            row = view[at : at + each]
            items.append(_Item(len(items), _vector(row, request.encoding)))
    if len(items) != len(request.texts):
        raise InferbusError(f"{len(items)} vectors for {len(request.texts)} texts")
    return msgspec.json.encode(_Answer(model, items, _Usage(tokens, tokens)))


def _vector(row: memoryview, encoding: str) -> list[float] | str:
    if encoding == _BASE64:
        return base64.b64encode(row).decode()
    return list(memoryview(row).cast("f"))
