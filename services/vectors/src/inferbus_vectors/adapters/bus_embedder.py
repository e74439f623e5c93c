"""BusEmbedder: embeddings from the platform's own pools, asked for as anybody's are: admitted, bounded, charged."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec
import numpy as np

from inferbus.admission.admit import Admission, Ask
from inferbus.answers.exchange import Ended, Exchange
from inferbus.errors import (
    DependencyDown,
    Forbidden,
    InferbusError,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from inferbus_vectors.payers import Payers
from inferbus_vectors.ports import Embedded, Payer

_PATH, _TASK = "/v1/embeddings", "embeddings"
_BY_STATUS: dict[int, type[InferbusError]] = {
    400: InvalidRequest, 401: Unauthenticated, 403: Forbidden, 404: NotFound, 413: TooLarge, 422: InvalidRequest,
}  # fmt: skip
_encode = msgspec.json.Encoder().encode


class _One(msgspec.Struct, frozen=True):
    embedding: str | list[float]
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    data: list[_One]
    usage: _Usage = _Usage()


class _Detail(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Detail = _Detail()


class BusEmbedder:
    """Implements `Embedder`."""

    def __init__(self, admission: Admission, payers: Payers) -> None:
        self._admission = admission
        self._payers = payers

    async def embed(
        self, payer: Payer, model: str, texts: Sequence[str], *, lane: str, deadline_s: float, traceparent: str = ""
    ) -> Embedded:
        body = _encode({"model": model, "input": list(texts), "encoding_format": "base64"})
        ask = Ask(
            model=model, task=_TASK, path=_PATH, body=body, lane=lane, deadline_s=deadline_s, traceparent=traceparent
        )
        exchange = await self._admission.admit(self._payers.identity_of(payer), ask)
        try:
            ended = await _end_of(exchange)
        finally:
            exchange.close()
        return embedded_from(ended.status, ended.data, len(texts))


async def _end_of(exchange: Exchange) -> Ended:
    while True:
        event = await exchange.next()
        if isinstance(event, Ended):
            return event


def embedded_from(status: int, data: bytes, count: int) -> Embedded:
    """Read an answer of the embeddings API.

    Raises:
        Permanent: it refuses these texts, or the model. Transient: it says that later it may work, or makes no sense.
    """
    if status != 200:
        raise _refusal(status, data)
    try:
        answer = msgspec.json.decode(data, type=_Answer)
        found = sorted(answer.data, key=lambda one: one.index)
        vectors = [_bytes_of(one.embedding) for one in found]
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError) as exc:
        raise DependencyDown(f"the embedding pool answered what cannot be read: {exc}") from exc
    if len(vectors) != count:
        raise DependencyDown(f"the embedding pool gave {len(vectors)} vectors for {count} texts")
    return Embedded(vectors, answer.usage.prompt_tokens)


def _bytes_of(embedding: str | list[float]) -> bytes:
    if isinstance(embedding, str):
        return base64.b64decode(embedding, validate=True)
    return np.array(embedding, np.float32).astype("<f4", copy=False).tobytes()


def _refusal(status: int, data: bytes) -> InferbusError:
    try:
        message = msgspec.json.decode(data, type=_Refusal).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = ""
    message = message or f"the embedding pool answered {status}"
    known = _BY_STATUS.get(status)
    if known is not None:
        return known(message)
    if 400 <= status < 500 and status not in (408, 429):
        return InvalidRequest(message)
    return DependencyDown(message)
