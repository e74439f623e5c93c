"""What each value is: present, missing, stale, or a default in its place. Pure; once for a batch, then cut to requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.contracts.features import DEFAULT, MISSING, PRESENT, STALE, FeatureColumn
from inferbus.errors import FeaturesStale
from inferbus_features.domain.services import ColumnSpec
from inferbus_features.ports import Column


class Judged(msgspec.Struct, frozen=True):
    """A column of a batch. `status` None: every value is present."""

    spec: ColumnSpec
    values: list[Any]
    times: list[float]
    status: list[str] | None


def judge(column: Column, spec: ColumnSpec, now: float) -> Judged:
    """Say what every value of a column is, and put defaults where there is none."""
    values, times, oldest = column.values, column.times, now - spec.ttl_s
    if None not in values and (not spec.ttl_s or min(times) >= oldest):
        return Judged(spec, values, times, None)  # nearly always
    blank = MISSING if spec.default is None else DEFAULT
    status = [
        blank if value is None else STALE if spec.ttl_s and 0.0 < time < oldest else PRESENT
        for value, time in zip(values, times, strict=True)
    ]
    if spec.default is not None:
        values = [spec.default if value is None else value for value in values]
    return Judged(spec, values, times, status)


def cut(column: Judged, start: int, end: int, *, now: float, max_age_s: float | None, ages: bool) -> FeatureColumn:
    """Give a request's part of a column.

    Raises:
        FeaturesStale: a value is older than `max_age_s`, and its feature has no default.
    """
    spec = column.spec
    values = column.values[start:end]
    if column.status is None and max_age_s is None and not ages:
        return FeatureColumn(name=spec.name, kind=spec.kind, values=values)
    times = column.times[start:end]
    status = column.status[start:end] if column.status is not None else [PRESENT] * (end - start)
    if max_age_s is not None:
        _refuse_old(spec, values, times, status, now, max_age_s)
    told = [
        round(now - time, 3) if time and (ages or state == STALE) else None
        for time, state in zip(times, status, strict=True)
    ]
    return FeatureColumn(
        name=spec.name, kind=spec.kind, values=values, status=status if set(status) != {PRESENT} else [],
        age_s=told if any(one is not None for one in told) else [],
    )  # fmt: skip


def _refuse_old(
    spec: ColumnSpec, values: list[Any], times: Sequence[float], status: list[str], now: float, max_age_s: float
) -> None:
    for row, time in enumerate(times):
        if not time or status[row] not in (PRESENT, STALE) or now - time <= max_age_s:
            continue
        if spec.default is None:
            raise FeaturesStale(
                f"{spec.name} of row {row} is {now - time:.0f} s old, the limit is {max_age_s:g} s", param=spec.name
            )
        values[row], status[row] = spec.default, DEFAULT
