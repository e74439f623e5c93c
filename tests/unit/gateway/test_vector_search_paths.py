"""Which paths search a collection, and that what clients get is what is documented."""

from __future__ import annotations

import msgspec
import pytest

from inferbus.codec import to_json
from inferbus.contracts.vector_search import Hit, SearchAnswer, VectorsRefused
from inferbus.errors import NotFound
from inferbus.vectors.bodies import SearchResults, describe_results
from inferbus_gateway.http.vector_search import results, searched


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/vectors/docs/search", "docs"), ("/v1/vectors/docs/search/", "docs"), ("/v1/vectors//docs/search", "docs"),
        ("/v1/vectors/collections/search", None), ("/v1/vectors/docs/documents", None), ("/v1/vectors/search", None),
        ("/v1/vectors/a/b/search", None), ("/v1/vectorsx/docs/search", None), ("/v1/chat/completions", None),
    ],
)  # fmt: skip
def test_paths(path: str, name: str | None) -> None:
    assert searched(path) == name


def test_an_answer_passed_on_is_the_documented_one() -> None:
    hits = [Hit(id="a", score=0.5, payload=msgspec.Raw(b'{"x":[1]}')), Hit(id="b", score=0.25, text="said", chunk=3)]
    answer = SearchAnswer(collection="docs", hits=hits, model="m", tokens=3, took_s=0.0123456)
    assert msgspec.json.decode(results(to_json(answer))) == msgspec.json.decode(to_json(describe_results(answer)))
    assert msgspec.json.decode(results(to_json(answer)), type=SearchResults).took_ms == 12.346


def test_a_refusal_is_an_error_that_names_the_field() -> None:
    refused = VectorsRefused(code="not_found", message="no such collection", param="collection")
    with pytest.raises(NotFound) as caught:
        results(to_json(refused))
    assert caught.value.param == "collection"
