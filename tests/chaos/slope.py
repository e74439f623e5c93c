"""Memory and descriptors of processes over time, from /proc, and the straight line through them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MB = 1024 * 1024


class Sample(msgspec.Struct, frozen=True):
    """One look at a process: monotonic seconds, resident bytes, open descriptors."""

    at: float
    resident_bytes: int
    descriptors: int


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """What the samples of one process say. Slopes are least squares, per minute."""

    first_mb: float
    last_mb: float
    most_mb: float
    mb_per_minute: float
    first_descriptors: int
    last_descriptors: int
    descriptors_per_minute: float
    minutes: float

    @property
    def descriptor_growth(self) -> float:
        """Give how many descriptors the line gains from end to end."""
        return self.descriptors_per_minute * self.minutes


def look_at(pid: int) -> Sample:
    """Read a process's figures.

    Raises:
        OSError: it is gone.
    """
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return Sample(time.monotonic(), pages * _PAGE_BYTES, len(list((folder / "fd").iterdir())))


def trend_of(samples: Sequence[Sample]) -> Trend:
    """Fit lines through at least two samples."""
    minutes = [(sample.at - samples[0].at) / 60 for sample in samples]
    megabytes = [sample.resident_bytes / MB for sample in samples]
    descriptors = [float(sample.descriptors) for sample in samples]
    return Trend(
        first_mb=megabytes[0],
        last_mb=megabytes[-1],
        most_mb=max(megabytes),
        mb_per_minute=slope(minutes, megabytes),
        first_descriptors=samples[0].descriptors,
        last_descriptors=samples[-1].descriptors,
        descriptors_per_minute=slope(minutes, descriptors),
        minutes=minutes[-1],
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Give the least-squares slope of y over x."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
