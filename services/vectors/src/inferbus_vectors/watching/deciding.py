"""What a list concerns, what is a hit, and what of it is shown. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import msgspec

from inferbus.contracts.vectors import COSINE, CollectionRecord
from inferbus.contracts.watchlists import DUPLICATES, EVERY, KINDS, SetWatchlist, WatchHit, Watchlist
from inferbus.errors import InvalidRequest
from inferbus.routes import token_safe
from inferbus_vectors.domain.points import Found

EXCERPT_CHARS = 200
MOST_ITEMS = 5
"""So many items a chunk is told to be near to, the nearest."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that is compared: of a document that was indexed (`collection`), or was only shown."""

    document: str
    chunk: int
    text: str
    vector: bytes
    version: int = 0
    collection: str = ""


def concerned(lists: Iterable[Watchlist], collection: CollectionRecord) -> list[Watchlist]:
    """Give the lists that what is indexed into a collection is compared with. A list's own items are not."""
    found = []
    own = {one.collection for one in lists if one.kind != DUPLICATES}
    for one in lists:
        if one.kind == DUPLICATES:
            if one.collection == collection.name:
                found.append(one)
        elif one.collection != collection.name and (
            collection.name in one.watched or (EVERY in one.watched and collection.name not in own)
        ):
            found.append(one)
    return found


def checked(wanted: SetWatchlist, collection: CollectionRecord) -> None:
    """Refuse a list that could not work.

    Raises:
        InvalidRequest: the message names the field.
    """
    if not wanted.name or token_safe(wanted.name) != wanted.name or len(wanted.name) > 128:
        raise InvalidRequest(f"name {wanted.name[:80]!r}: letters, digits, _ and -", param="name")
    if wanted.kind not in KINDS:
        raise InvalidRequest(f"kind is one of {', '.join(KINDS)}", param="kind")
    if not math.isfinite(wanted.threshold) or not 0 < wanted.threshold <= 1:
        raise InvalidRequest(f"threshold is {wanted.threshold}; it must be over 0, and at most 1", param="threshold")
    if collection.live.distance != COSINE:
        raise InvalidRequest(f"collection {collection.name!r} is compared by {collection.live.distance}, not {COSINE}",
                             param="collection")  # fmt: skip
    if wanted.kind == DUPLICATES and wanted.watched and wanted.watched != [wanted.collection]:
        raise InvalidRequest("watched: near-duplicates are looked for in the list's own collection", param="watched")


def hit_of(watchlist: Watchlist, shown: Shown, found: Found, at: float) -> WatchHit:
    """Make a hit. Its id is the same whenever the same pair is found."""
    return WatchHit(
        id=_hit_id(watchlist, shown, found), tenant=watchlist.tenant, watchlist=watchlist.name, kind=watchlist.kind,
        item=found.id, item_excerpt=excerpt(found.text), item_payload=msgspec.Raw(found.payload),
        collection=shown.collection, document=shown.document, version=shown.version, chunk=shown.chunk,
        score=round(found.score, 6), threshold=watchlist.threshold, excerpt=excerpt(shown.text), at=at,
    )  # fmt: skip


def best_of(hits: Sequence[WatchHit]) -> list[WatchHit]:
    """Of a document's chunks give the one that is nearest to an item, for each item; the nearest first."""
    best: dict[str, WatchHit] = {}
    for hit in hits:
        if hit.id not in best or hit.score > best[hit.id].score:
            best[hit.id] = hit
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.id))


def excerpt(text: str) -> str:
    """Give the beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARS else f"{line[: EXCERPT_CHARS - 1]}…"


def _hit_id(watchlist: Watchlist, shown: Shown, found: Found) -> str:
    pair = (found.id, shown.collection, shown.document)
    if watchlist.kind == DUPLICATES:  # the same two, whichever came last
        pair = (*sorted((found.id, shown.document)), shown.collection)  # type: ignore[assignment]  # three strings
    parts = (watchlist.tenant, watchlist.name, *pair)
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]
