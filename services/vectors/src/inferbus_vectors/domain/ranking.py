"""Ranking: what becomes of hits between the engine and the answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from inferbus.errors import InferbusError
from inferbus_vectors.domain.points import Found


def reordered(hits: Sequence[Found], scores: Sequence[float]) -> list[Found]:
    """Give hits in the order of new scores, the best first; of equal ones that which was in front stays there.

    Raises:
        InferbusError: there is not one score for each.
    """
    if len(hits) != len(scores):
        raise InferbusError(f"{len(scores)} scores for {len(hits)} hits")
    scored = [msgspec.structs.replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)


def best_of_each(hits: Sequence[Found]) -> list[Found]:
    """Keep the first chunk of each document."""
    seen = set[str]()
    return [hit for hit in hits if not (hit.id in seen or seen.add(hit.id))]  # type: ignore[func-returns-value]  # add gives None


def page_of(hits: Sequence[Found], *, threshold: float | None, offset: int, limit: int) -> list[Found]:
    """Drop what is below the threshold, then cut the page."""
    kept = hits if threshold is None else [hit for hit in hits if hit.score >= threshold]
    return list(kept[offset : offset + limit])
