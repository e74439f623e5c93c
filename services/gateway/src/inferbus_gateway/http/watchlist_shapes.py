"""Bodies of /v1/vectors/watchlists and of dead letters, as clients write and read them."""

from __future__ import annotations

from typing import Any

import msgspec

from inferbus.contracts.watchlists import DUPLICATES, ITEMS, VectorLetter, WatchHit, Watchlist
from inferbus.vectors.bodies import NewDocument


class NewWatchlist(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A set of known items, and what is compared with them. Its items are the documents of `collection`; where none is
    named, one of the list's own name is made, with `model` or `dimension`. `watched`: collections whose documents are
    compared when they are indexed, `*` for all. `near_duplicates_of` instead: a collection whose documents are compared
    with each other."""

    name: str
    threshold: float
    watched: list[str] = []
    collection: str = ""
    model: str = ""
    dimension: int = 0
    near_duplicates_of: str = ""
    metadata: dict[str, str] = {}

    @property
    def kind(self) -> str:
        return DUPLICATES if self.near_duplicates_of else ITEMS


class MatchWanted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is compared with a list's items, and not kept. `record`: what is found is a hit like any other."""

    documents: list[NewDocument]
    record: bool = True


class LettersWanted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to index again: those of these places, or all; `documents` in place of those of their ids."""

    places: list[int] = []
    documents: list[NewDocument] = []


class WatchlistObject(msgspec.Struct, kw_only=True):
    object: str = "vector.watchlist"
    name: str
    kind: str
    collection: str
    watched: list[str]
    threshold: float
    metadata: dict[str, str]
    created_at: int


class WatchlistList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[WatchlistObject]


class HitObject(msgspec.Struct, kw_only=True):
    """Evidence: `document` (of `collection`, or only shown) is as near to `item` as `score` says."""

    object: str = "vector.hit"
    id: str
    watchlist: str
    kind: str
    item: str
    item_excerpt: str
    item_payload: Any
    collection: str | None
    document: str
    version: int
    chunk: int
    score: float
    threshold: float
    excerpt: str
    at: float


class HitList(msgspec.Struct, kw_only=True):
    """Hits; go on with `after` the `next` (0: there is no more)."""

    object: str = "list"
    data: list[HitObject]
    next: int = 0
    tokens: int = 0


class LetterObject(msgspec.Struct, kw_only=True):
    """A dead letter: documents that could not be indexed, and why."""

    object: str = "vector.dead_letter"
    place: int
    documents: list[str]
    code: str
    reason: str
    message: Any


class LetterList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[LetterObject]
    next: int = 0


class RedrivenObject(msgspec.Struct, kw_only=True):
    """How many are in the queue again; `left` are those of which too little was kept."""

    object: str = "vector.redriven"
    letters: int
    left: list[int]


def describe_watchlist(one: Watchlist) -> WatchlistObject:
    return WatchlistObject(
        name=one.name, kind=one.kind, collection=one.collection, watched=one.watched, threshold=one.threshold,
        metadata=one.metadata, created_at=int(one.created),
    )  # fmt: skip


def describe_hit(hit: WatchHit) -> HitObject:
    return HitObject(
        id=hit.id, watchlist=hit.watchlist, kind=hit.kind, item=hit.item, item_excerpt=hit.item_excerpt,
        item_payload=hit.item_payload, collection=hit.collection or None, document=hit.document, version=hit.version,
        chunk=hit.chunk, score=hit.score, threshold=hit.threshold, excerpt=hit.excerpt, at=hit.at,
    )  # fmt: skip


def describe_letter(letter: VectorLetter) -> LetterObject:
    return LetterObject(
        place=letter.place, documents=letter.documents, code=letter.code, reason=letter.reason, message=letter.message
    )
