"""What a search asks for: decided from its request alone, and what cannot be is refused by the field's name."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.contracts.vector_search import Rerank, SearchRequest
from inferbus.contracts.vectors import CollectionRecord, Placement
from inferbus.errors import InferbusError, InvalidRequest, TooLarge, Unsupported
from inferbus_vectors.domain.points import Found
from inferbus_vectors.domain.ranking import best_of_each, page_of, reordered
from inferbus_vectors.domain.search_plan import MAX_CANDIDATES, MAX_TEXT_CHARS, plan_search

DOCS = CollectionRecord(id="c", tenant="dev", name="docs", live=Placement(model="m", dimension=2), created=0.0)
BOTH = CollectionRecord(id="h", tenant="dev", name="both", live=DOCS.live, created=0.0, hybrid=True)
READY = CollectionRecord(id="r", tenant="dev", name="ready", live=Placement(model="", dimension=2), created=0.0)
PAIR = base64.b64encode(struct.pack("<2f", 1.0, 2.0)).decode()
NAN = base64.b64encode(struct.pack("<2f", 1.0, float("nan"))).decode()


def test_text_vector_and_like() -> None:
    by_text = plan_search(SearchRequest(text="hello", limit=3, offset=4, threshold=0.5), DOCS)
    assert (by_text.embeds, by_text.vector, by_text.fetch, by_text.skip, by_text.threshold) == (True, None, 3, 4, 0.5)
    by_vector = plan_search(SearchRequest(vector=[1.0, 2.0]), READY)
    assert (by_vector.embeds, by_vector.vector) == (False, struct.pack("<2f", 1.0, 2.0))
    assert plan_search(SearchRequest(vector_b64=PAIR), DOCS).vector == by_vector.vector
    assert not plan_search(SearchRequest(like="d1"), DOCS).embeds


def test_modes_and_rerank() -> None:
    assert not plan_search(SearchRequest(text="a", mode="sparse"), BOTH).embeds
    both = plan_search(SearchRequest(text="a", mode="hybrid"), BOTH)
    assert (both.embeds, both.is_sparse) == (True, True)
    reranked = plan_search(
        SearchRequest(text="a", offset=5, threshold=0.1, rerank=Rerank(model="r"), with_text=False), DOCS
    )
    assert (reranked.fetch, reranked.skip, reranked.threshold, reranked.with_text) == (50, 0, None, True)
    assert plan_search(SearchRequest(text="a", limit=900, rerank=Rerank(model="r")), DOCS).fetch == MAX_CANDIDATES


@pytest.mark.parametrize(
    ("said", "param", "error"),
    [
        ({}, "text", InvalidRequest),
        ({"text": "a", "vector": [1.0, 2.0]}, "vector", InvalidRequest),
        ({"text": " \n"}, "text", InvalidRequest),
        ({"text": "a" * (MAX_TEXT_CHARS + 1)}, "text", TooLarge),
        ({"vector": [1.0]}, "vector", InvalidRequest),
        ({"vector": [1.0, float("nan")]}, "vector", InvalidRequest),
        ({"vector": [1.0, 1e300]}, "vector", InvalidRequest),
        ({"vector_b64": "=="}, "vector_b64", InvalidRequest),
        ({"vector_b64": PAIR + PAIR}, "vector_b64", InvalidRequest),
        ({"vector_b64": NAN}, "vector_b64", InvalidRequest),
        ({"text": "a", "limit": 0}, "limit", InvalidRequest),
        ({"text": "a", "limit": 5000}, "limit", InvalidRequest),
        ({"text": "a", "offset": -1}, "offset", InvalidRequest),
        ({"text": "a", "offset": 9_999}, "offset", InvalidRequest),
        ({"text": "a", "threshold": float("inf")}, "threshold", InvalidRequest),
        ({"text": "a", "mode": "fuzzy"}, "mode", InvalidRequest),
        ({"text": "a", "mode": "hybrid"}, "mode", Unsupported),
        ({"vector": [1.0, 2.0], "rerank": Rerank(model="r")}, "rerank", InvalidRequest),
        ({"text": "a", "rerank": Rerank(model="")}, "rerank.model", InvalidRequest),
        ({"text": "a", "rerank": Rerank(model="r", candidates=0)}, "rerank.candidates", InvalidRequest),
    ],
)  # fmt: skip
def test_refused(said: dict[str, Any], param: str, error: type[InferbusError]) -> None:
    with pytest.raises(error) as raised:
        plan_search(SearchRequest(**said), DOCS)
    assert raised.value.param == param


def test_a_text_needs_a_model_and_sparse_a_text() -> None:
    with pytest.raises(Unsupported):
        plan_search(SearchRequest(text="a"), READY)
    with pytest.raises(InvalidRequest):
        plan_search(SearchRequest(vector=[1.0, 2.0], mode="sparse"), BOTH)


def hit(name: str, chunk: int = 0, score: float = 0.0) -> Found:
    return Found(id=name, chunk=chunk, version=1, score=score)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-1, 1)), max_size=20), st.integers(0, 5), st.integers(1, 5))
def test_ranking(found: list[tuple[str, float]], offset: int, limit: int) -> None:
    hits = reordered([hit(name, at) for at, (name, _) in enumerate(found)], [score for _, score in found])
    assert [one.score for one in hits] == sorted((score for _, score in found), reverse=True)
    best = best_of_each(hits)
    assert len(best) == len({name for name, _ in found})
    assert all(one.score == max(score for name, score in found if name == one.id) for one in best)
    page = page_of(hits, threshold=0.0, offset=offset, limit=limit)
    assert page == [one for one in hits if one.score >= 0][offset : offset + limit]


def test_a_score_for_each() -> None:
    with pytest.raises(InferbusError):
        reordered([hit("a")], [])
