"""Exact sums of floats: what was added, in whatever order and grouping, gives the same bits.

A sum is kept as an expansion, a few floats whose exact sum it is, largest first (Shewchuk 1997, "Adaptive precision
floating-point arithmetic"). `math.fsum` rounds the exact sum of its inputs correctly, so that taking out what it gives
until nothing is left yields the expansion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

LARGEST = 1e300
"""Values beyond are no numbers to add up: a hundred million of them are still below what a float can be."""


def expansion_of(values: Iterable[float]) -> list[float]:
    """Give the expansion of the sum of `values`, each finite and at most `LARGEST` in size."""
    rest = list(values)
    expansion: list[float] = []
    while part := math.fsum(rest):
        expansion.append(part)
        rest.append(-part)
    return expansion


def rounded(expansion: Iterable[float]) -> float:
    """Give the float nearest to the sum."""
    return math.fsum(expansion)
