"""Reranking: texts scored for a query by a model of the registry, on the interactive lane, charged as any request.

A model that reranks is asked to (`/v1/rerank`); one that embeds embeds the query and the texts, and how near they are is
the score.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import msgspec

from inferbus import routes
from inferbus.admission.admit import Admission, Ask
from inferbus.answers.exchange import Ended
from inferbus.codec import to_json
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest, NotFound, Unsupported
from inferbus.models import ModelRegistry
from inferbus_vectors.payers import Payers
from inferbus_vectors.ports import Embedder
from inferbus_vectors.searching import Asked, Scored

PATH, TASK, EMBEDS = "/v1/rerank", "rerank", "embeddings"


class _Score(msgspec.Struct, frozen=True):
    index: int
    relevance_score: float


class _Usage(msgspec.Struct, frozen=True):
    total_tokens: int = 0


class _Scores(msgspec.Struct, frozen=True):
    results: list[_Score]
    usage: _Usage = _Usage()


class BusReranker:
    """Implements `Reranker`."""

    def __init__(self, admission: Admission, models: ModelRegistry, payers: Payers, embedder: Embedder) -> None:
        self._admission = admission
        self._models = models
        self._payers = payers
        self._embedder = embedder

    async def score(self, asked: Asked, model: str, query: str, texts: Sequence[str]) -> Scored:
        entry = self._models.resolve(model)
        if entry is None:
            raise NotFound(f"The model `{model}` does not exist or you do not have access to it.", param="rerank.model")
        if TASK in entry.tasks:
            return await self._reranked(asked, model, query, texts)
        if EMBEDS not in entry.tasks:
            raise Unsupported(f"The model `{model}` neither reranks nor embeds.", param="rerank.model")
        embedded = await self._embedder.embed(
            asked.payer, model, [query, *(text or " " for text in texts)], lane=routes.INTERACTIVE,
            deadline_s=asked.deadline_s, traceparent=asked.traceparent,
        )  # fmt: skip
        wanted, *others = [_unpacked(vector) for vector in embedded.vectors]
        return Scored([_cosine(wanted, other) for other in others], embedded.tokens)

    async def _reranked(self, asked: Asked, model: str, query: str, texts: Sequence[str]) -> Scored:
        documents = [text or " " for text in texts]
        body = {"model": model, "query": query, "documents": documents, "top_n": len(documents)}
        exchange = await self._admission.admit(
            self._payers.identity_of(asked.payer),
            Ask(
                model=model, task=TASK, path=PATH, body=to_json(body), deadline_s=asked.deadline_s,
                traceparent=asked.traceparent,
            ),
        )  # fmt: skip
        try:
            event = await exchange.next()
            while not isinstance(event, Ended):
                event = await exchange.next()
        finally:
            exchange.close()
        return _scored(event, len(texts))


def _scored(answer: Ended, count: int) -> Scored:
    if answer.status >= 500:
        raise DependencyDown(f"the reranker answered {answer.status}")
    if answer.status >= 400:
        raise InvalidRequest(f"rerank: the model answered {answer.status}: {answer.data[:500]!r}", param="rerank.model")
    try:
        found = msgspec.json.decode(answer.data, type=_Scores)
    except msgspec.DecodeError as exc:
        raise InferbusError(f"the reranker's answer cannot be read: {exc}") from exc
    scores = {one.index: one.relevance_score for one in found.results}
    if set(scores) != set(range(count)):
        raise InferbusError(f"the reranker gave {len(scores)} scores for {count} texts")
    return Scored([scores[at] for at in range(count)], found.usage.total_tokens)


def _unpacked(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    size = math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / size if size else 0.0
