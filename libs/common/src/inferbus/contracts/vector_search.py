"""Vectors: a search on `vectors.search.<tenant>.<collection>`, and its answer. Bodies are JSON."""

from __future__ import annotations

import msgspec

from inferbus.contracts.vectors import empty_object

DEADLINE_MS = "Ib-Deadline-Ms"
"""Header of a search: the milliseconds there are for it."""
REQUEST_ID = "Ib-Request"

DENSE, SPARSE, HYBRID = "dense", "sparse", "hybrid"
MODES = (DENSE, SPARSE, HYBRID)

EQ, NE, GT, GTE, LT, LTE, IN, NIN, EXISTS = "eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists"
AND, OR, NOT = "and", "or", "not"
COMPARISONS = (EQ, NE, GT, GTE, LT, LTE, IN, NIN, EXISTS)
COMPOUNDS = (AND, OR, NOT)

Scalar = bool | int | float | str
Value = Scalar | list[bool | int | float | str] | None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on the payload, in the OpenAI API's words for file search, and three more (`exists`, `not`, lists).

    A comparison has `key` and `value` (`in`, `nin`: a list); a compound has `filters` (`not`: none of them holds).
    """

    type: str
    key: str = ""
    value: Value = None
    filters: list[Filter] = []


class Rerank(msgspec.Struct, frozen=True, kw_only=True):
    """Order the best `candidates` anew by a model of the registry, which embeds or reranks, as its tasks say."""

    model: str
    candidates: int = 50


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.search.v1"):
    """What is looked for: exactly one of `text`, `vector`, `vector_b64` (little-endian 32-bit floats) and `like` (the id of
    a document of this collection, which is not among its own hits).

    `mode` `sparse` and `hybrid` want a text and a collection with BM25. `threshold`: hits of at least this score (dense: the
    distance's own measure; of `euclid`, at most). `exact`: look at every vector. `by_document`: the best chunk of each
    document only.
    """

    text: str | None = None
    vector: list[float] | None = None
    vector_b64: str | None = None
    like: str | None = None
    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    mode: str = DENSE
    threshold: float | None = None
    exact: bool = False
    by_document: bool = False
    rerank: Rerank | None = None
    with_payload: bool = True
    with_text: bool = True
    with_vector: bool = False


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was found; `chunk` counts from 0."""

    id: str
    score: float
    chunk: int = 0
    version: int = 0
    text: str = ""
    payload: msgspec.Raw = msgspec.field(default_factory=empty_object)
    vector_b64: str | None = None


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.found.v1"):
    """Hits, the best first. `tokens` were embedded (and reranked) for it, `took_s` is the service's time."""

    collection: str
    hits: list[Hit] = []
    model: str = ""
    tokens: int = 0
    took_s: float = 0.0


class VectorsRefused(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.refused.v1"):
    """The answer to a search, or to anything asked of collections, that could not be done: a code of the error table."""

    code: str
    message: str
    param: str = ""
    retry_after_s: float = 0.0


Searched = SearchAnswer | VectorsRefused
