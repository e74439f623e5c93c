"""Watchlists: sets of known items that whatever is indexed, or shown on `vectors.watch.<tenant>.match`, is compared with.

The items are documents of a collection of their own; those of a list of near-duplicates are the watched collection's
documents themselves. What is as near as the threshold is a hit: kept in the bucket `watch_hits`, once for each pair of
item and document, and told as a fact. Bodies are JSON, times Unix seconds.
"""

from __future__ import annotations

import msgspec

from inferbus.contracts.vector_search import VectorsRefused
from inferbus.contracts.vectors import Document, empty_object

ITEMS, DUPLICATES = "items", "duplicates"
KINDS = (ITEMS, DUPLICATES)
EVERY = "*"
"""Watches all collections of the tenant (but those that are watchlists' own)."""

SET, DROP, GET, LIST, MATCH, HITS = "set", "drop", "get", "list", "match", "hits"
LETTERS, REDRIVE = "letters", "redrive"
"""Verbs. The last two are about dead letters of a collection."""


class Watchlist(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.watchlist.v1"):
    """One list, under `<tenant>.<name>` in the bucket `watchlists`. `collection` has the items, `watched` names what is
    compared with them; `threshold` is the score from which it is a hit. `owns`: the collection was made for it."""

    tenant: str
    name: str
    collection: str
    threshold: float
    kind: str = ITEMS
    watched: list[str] = []
    owns: bool = False
    metadata: dict[str, str] = {}
    created: float = 0.0
    key_id: str = ""


class WatchHit(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.watch_hit.v1"):
    """Something is (nearly) what is on a list. Evidence: which item, how near, and what both say. `collection` is empty for
    what was only shown to be matched. `item_payload` is the item's, as it was indexed."""

    id: str
    tenant: str
    watchlist: str
    kind: str
    item: str
    item_excerpt: str
    collection: str
    document: str
    version: int
    chunk: int
    score: float
    threshold: float
    excerpt: str
    at: float
    item_payload: msgspec.Raw = msgspec.field(default_factory=empty_object)


class SetWatchlist(msgspec.Struct, frozen=True, kw_only=True):
    """Make a list, or change one. Its collection is there already."""

    name: str
    collection: str
    threshold: float
    kind: str = ITEMS
    watched: list[str] = []
    owns: bool = False
    metadata: dict[str, str] = {}


class OneWatchlist(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class AllWatchlists(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Compare documents with a list, and keep none of them. `record`: what is found is a hit as any other."""

    name: str
    documents: list[Document]
    record: bool = True


class ReadHits(msgspec.Struct, frozen=True, kw_only=True):
    """The hits of a list, in the order they came, after a place."""

    name: str
    after: int = 0
    limit: int = 100


class ReadLetters(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of a collection, in the order they came, after a place."""

    collection: str
    after: int = 0
    limit: int = 100


class RedriveLetters(msgspec.Struct, frozen=True, kw_only=True):
    """Index dead letters again: those of these places, or all. `documents`: with these in their place, by their ids."""

    collection: str
    places: list[int] = []
    documents: list[Document] = []


class Watchlists(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.watchlists.v1"):
    watchlists: list[Watchlist] = []


class WatchHits(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.watch_hits.v1"):
    """`next` is the place to go on after, 0 where there is no more."""

    hits: list[WatchHit] = []
    next: int = 0
    tokens: int = 0


class VectorLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: where it is, which documents, why, and the message as it was (empty where it was too large to keep)."""

    place: int
    documents: list[str]
    code: str
    reason: str
    message: msgspec.Raw = msgspec.field(default_factory=empty_object)


class VectorLetters(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.letters.v1"):
    letters: list[VectorLetter] = []
    next: int = 0


class Redriven(msgspec.Struct, frozen=True, kw_only=True, tag="vectors.redriven.v1"):
    """`left`: the places of those that stay, as they cannot be told from what is kept of them."""

    letters: int = 0
    left: list[int] = []


REQUESTS: dict[str, type] = {
    SET: SetWatchlist, DROP: OneWatchlist, GET: OneWatchlist, LIST: AllWatchlists, MATCH: Match, HITS: ReadHits,
    LETTERS: ReadLetters, REDRIVE: RedriveLetters,
}  # fmt: skip

WatchAnswer = Watchlist | Watchlists | WatchHits | VectorLetters | Redriven | VectorsRefused
"""set, get and drop are answered with the list as it then is, or was."""
