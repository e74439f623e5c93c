"""Poison: what becomes of a request under which an engine died. Pure."""

from __future__ import annotations

MAX_ENGINE_DEATHS = 5


def is_poison(engine_deaths: int, *, was_alone: bool) -> bool:
    """Decide after one more engine death: `engine_deaths` counts it, `was_alone` says that nothing ran beside it.

    A death while alone is proof. Without proof, five deaths are taken for it (DESIGN.md, Poison).
    """
    return was_alone or engine_deaths >= MAX_ENGINE_DEATHS
