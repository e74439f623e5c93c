"""Re-indexing: what may follow what, where documents are written meanwhile, and what a difference between two places
asks for. Pure.

    building -> caught_up -> swapped -> dropping -> done
    building, caught_up or swapped -> ending -> cancelled or failed

Building copies document after document, in the order of their heads, and every document that comes or goes meanwhile is
written to both places. Versions make the order of all that a matter of no importance. Caught up, both are compared and mended until nothing differs. The swap is one
compare-and-set: a search reads one place or the other, each complete. Until `keep_s` later the old place (then `to`) is
written to as well, and can be returned to. What is ended before that leaves no trace in the old place.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inferbus.contracts.vectors import (
    BUILDING,
    CANCELLED,
    CAUGHT_UP,
    DONE,
    DROPPING,
    ENDING,
    FAILED,
    SWAPPED,
    CollectionRecord,
    Placement,
    Reindexing,
)
from inferbus.errors import Conflict

ALLOWED: Mapping[str, frozenset[str]] = {
    BUILDING: frozenset({CAUGHT_UP, ENDING}),
    CAUGHT_UP: frozenset({SWAPPED, ENDING}),
    SWAPPED: frozenset({DROPPING, ENDING}),
    DROPPING: frozenset({DONE}),
    ENDING: frozenset({CANCELLED, FAILED}),
    DONE: frozenset(),
    CANCELLED: frozenset(),
    FAILED: frozenset(),
}
TERMINAL = frozenset(state for state, following in ALLOWED.items() if not following)
_TWO_PLACES = frozenset({BUILDING, CAUGHT_UP, SWAPPED})


def is_open(reindexing: Reindexing | None) -> bool:
    """Whether there is still something to do."""
    return reindexing is not None and reindexing.state not in TERMINAL


def written_places(record: CollectionRecord) -> tuple[Placement, ...]:
    """Say where documents are written and taken out; the first is searched."""
    reindexing = record.reindexing
    if reindexing is None or reindexing.state not in _TWO_PLACES:
        return (record.live,)
    return (record.live, reindexing.to)


def begun(
    record: CollectionRecord, to: Placement, *, keep_s: float, total: int, now: float, key_id: str = ""
) -> CollectionRecord:
    """Give a record whose collection is to move.

    Raises:
        Conflict: it is on its way somewhere already.
    """
    if is_open(record.reindexing):
        assert record.reindexing is not None  # noqa: S101  # for the type checker; `is_open` looked
        raise Conflict(f"the collection `{record.name}` is being reindexed ({record.reindexing.state})")
    reindexing = Reindexing(
        to=to, total=total, keep_s=keep_s, key_id=key_id, started=now, updated=now, since={BUILDING: now}
    )
    return msgspec.structs.replace(record, reindexing=reindexing, updated=now)


def next_generation(record: CollectionRecord, model: str, dimension: int, distance: str) -> Placement:
    """Give a place for a collection: another than it is in, even where all of it is alike."""
    wanted = Placement(model=model, dimension=dimension, distance=distance)
    while wanted == record.live:
        wanted = msgspec.structs.replace(wanted, generation=wanted.generation + 1)
    return wanted


def moved(record: CollectionRecord, state: str, now: float, *, error: str = "") -> CollectionRecord:
    """Give a record whose reindexing is in its next state. With the swap the places change theirs; to end what was
    swapped swaps them back.

    Raises:
        Conflict: that may not follow.
    """
    reindexing = record.reindexing
    if reindexing is None or state not in ALLOWED[reindexing.state]:
        raise Conflict(f"a reindexing that is {reindexing.state if reindexing else 'not there'} cannot become {state}")
    live, to = record.live, reindexing.to
    if state == SWAPPED or (state == ENDING and reindexing.state == SWAPPED):
        live, to = to, live
    now_so = msgspec.structs.replace(
        reindexing,
        state=state,
        to=to,
        updated=now,
        since=reindexing.since | {state: now},
        error=error or reindexing.error,
    )
    return msgspec.structs.replace(record, live=live, reindexing=now_so, updated=now)


def advanced(reindexing: Reindexing, cursor: str, done: int, now: float) -> Reindexing:
    """Give a run that has copied up to a place. It never goes back: who is behind changes nothing.

    Raises:
        Conflict: it does not copy.
    """
    if reindexing.state != BUILDING:
        raise Conflict(f"a reindexing that is {reindexing.state} copies nothing")
    if cursor <= reindexing.cursor:
        return reindexing
    return msgspec.structs.replace(reindexing, cursor=cursor, done=reindexing.done + done, updated=now)


def may_drop(reindexing: Reindexing, now: float) -> bool:
    """Whether the old place was kept long enough after the swap."""
    return reindexing.state == SWAPPED and now >= reindexing.since.get(SWAPPED, now) + reindexing.keep_s


class Differences(msgspec.Struct, frozen=True):
    """Documents to copy again, since they are missing or older in the target; and documents only the target has."""

    stale: tuple[str, ...]
    extra: tuple[str, ...]


def compare(source: Mapping[str, int], target: Mapping[str, int]) -> Differences:
    """Compare the versions of documents of one stretch of both places. One that is newer in the target is fine: whoever
    writes the source reads no further."""
    stale = tuple(sorted(one for one, version in source.items() if target.get(one, -1) < version))
    extra = tuple(sorted(one for one in target if one not in source))
    return Differences(stale, extra)
