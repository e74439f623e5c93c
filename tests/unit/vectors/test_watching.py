"""Which lists concern a collection, what is a hit, and which of a document's hits is kept."""

from __future__ import annotations

import math

import pytest

from inferbus.contracts.vectors import DOT, CollectionRecord, Placement
from inferbus.contracts.watchlists import DUPLICATES, SetWatchlist, Watchlist
from inferbus.errors import InvalidRequest
from inferbus_vectors.domain.points import Found
from inferbus_vectors.watching.deciding import EXCERPT_CHARS, Shown, best_of, checked, concerned, excerpt, hit_of


def collection(name: str, distance: str = "cosine") -> CollectionRecord:
    live = Placement(model="m", dimension=2, distance=distance)
    return CollectionRecord(id=f"id-{name}", tenant="t", name=name, live=live, created=0.0)


def watchlist(name: str, **fields: object) -> Watchlist:
    return Watchlist(**({"tenant": "t", "name": name, "collection": name, "threshold": 0.5} | fields))  # type: ignore[arg-type]  # of a test


def shown(document: str, text: str = "a text", *, chunk: int = 0) -> Shown:
    return Shown(document=document, chunk=chunk, text=text, vector=b"", collection="posts")


def test_a_list_watches_what_it_names_and_never_its_own_items() -> None:
    named, every = watchlist("named", watched=["posts"]), watchlist("every", watched=["*"])
    twins = watchlist("twins", kind=DUPLICATES, collection="posts")
    lists = [named, every, twins]
    assert concerned(lists, collection("posts")) == lists
    assert concerned(lists, collection("other")) == [every]
    assert concerned(lists, collection("named")) == []
    assert concerned([watchlist("a", watched=["a", "*"])], collection("a")) == []


def test_the_same_pair_is_one_hit() -> None:
    found = Found(id="item", chunk=0, version=1, score=0.9, text="known", payload=b'{"why":1}')
    bad = watchlist("bad")
    first, again = hit_of(bad, shown("d"), found, 1.0), hit_of(bad, shown("d", chunk=3), found, 2.0)
    assert first.id == again.id
    assert first.id != hit_of(bad, shown("e"), found, 1.0).id
    assert (first.item, first.document, bytes(first.item_payload)) == ("item", "d", b'{"why":1}')
    twins = watchlist("twins", kind=DUPLICATES, collection="posts")
    other = Found(id="d", chunk=0, version=1, score=0.9)
    one, reverse = hit_of(twins, shown("item"), other, 1.0), hit_of(twins, shown("d"), found, 1.0)
    assert one.id == reverse.id


def test_of_a_documents_chunks_the_nearest_is_kept() -> None:
    bad = watchlist("bad")
    far, near = (Found(id="item", chunk=0, version=1, score=score) for score in (0.6, 0.8))
    hits = [hit_of(bad, shown("d", chunk=n), found, 1.0) for n, found in enumerate((far, near))]
    (kept,) = best_of(hits)
    assert (kept.score, kept.chunk) == (0.8, 1)


@pytest.mark.parametrize(
    ("fields", "distance", "param"),
    [
        ({"name": "a b"}, "cosine", "name"),
        ({"kind": "x"}, "cosine", "kind"),
        ({"threshold": 0.0}, "cosine", "threshold"),
        ({"threshold": 1.5}, "cosine", "threshold"),
        ({"threshold": math.nan}, "cosine", "threshold"),
        ({}, DOT, "collection"),
        ({"kind": DUPLICATES, "watched": ["other"]}, "cosine", "watched"),
    ],
)
def test_a_list_that_could_not_work_is_refused(fields: dict[str, object], distance: str, param: str) -> None:
    wanted = SetWatchlist(**({"name": "n", "collection": "c", "threshold": 0.5} | fields))  # type: ignore[arg-type]  # of a test
    with pytest.raises(InvalidRequest) as caught:
        checked(wanted, collection("c", distance))
    assert caught.value.param == param


def test_an_excerpt_is_one_short_line() -> None:
    assert excerpt("a\n b\t c") == "a b c"
    assert len(excerpt("x" * 1000)) == EXCERPT_CHARS
