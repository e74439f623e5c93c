"""How many different values, about: a HyperLogLog sketch of 4,096 registers, which errs by some 1.6 %.

Ours, because history and stream have to agree to the last bit: a register is the largest of what was put in, so that
neither order nor grouping nor repetition changes a sketch. (Apache DataSketches' estimate depends on the order, DuckDB's
and Polars' sketches cannot be taken out and put together, and neither hashes as the other does.) A sketch is kept as the
registers that are not 0. The estimator is Ertl's (2017, "New cardinality estimation algorithms for HyperLogLog
sketches", algorithm 6), which needs no tables and is right for few values too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

PRECISION = 12
REGISTERS = 1 << PRECISION
_HASH_BITS = 64
_REST_BITS = _HASH_BITS - PRECISION
_REST = (1 << _REST_BITS) - 1
_HIGHEST = _REST_BITS + 1
_ALPHA = 1 / (2 * math.log(2))

Sketch: TypeAlias = dict[int, int]
"""Register to its value, which is at least 1."""


def add(sketch: Sketch, values: Iterable[str | int | bool]) -> None:
    """Put values into a sketch. Values of different types are different; floats are no names of anything."""
    for value in values:
        digest = hashlib.blake2b(f"{type(value).__name__}:{value}".encode(errors="surrogatepass"), digest_size=8)
        number = int.from_bytes(digest.digest())
        register, rank = number >> _REST_BITS, _REST_BITS - (number & _REST).bit_length() + 1
        if rank > sketch.get(register, 0):
            sketch[register] = rank


def merge(into: Sketch, other: Sketch) -> None:
    """Put in what the other has."""
    for register, rank in other.items():
        if rank > into.get(register, 0):
            into[register] = rank


def estimate(sketch: Sketch) -> int:
    """Say how many different values were put in, about."""
    counts = [0] * (_HIGHEST + 1)
    counts[0] = REGISTERS - len(sketch)
    for rank in sketch.values():
        counts[rank] += 1
    return _estimate(tuple(counts))


@lru_cache(maxsize=4096)
def _estimate(counts: tuple[int, ...]) -> int:
    """Estimate from how many registers have each value: those of few values come again and again."""
    z = REGISTERS * _tau(1 - counts[_HIGHEST] / REGISTERS)
    for rank in range(_HIGHEST - 1, 0, -1):
        z = 0.5 * (z + counts[rank])
    z += REGISTERS * _sigma(counts[0] / REGISTERS)
    return 0 if math.isinf(z) else round(_ALPHA * REGISTERS * REGISTERS / z)


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3
