"""Quiet hours: times of the day at which batch rests. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

from inferbus.errors import InvalidRequest

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DAY_MIN = 24 * 60


class QuietHours(msgspec.Struct, frozen=True):
    """Spans of minutes of the day (UTC), from one to another that may be the next day's."""

    spans: tuple[tuple[int, int], ...] = ()

    def rests_at(self, now: float) -> bool:
        """Whether batch rests at a Unix time."""
        at = datetime.fromtimestamp(now, tz=UTC)
        minute = at.hour * 60 + at.minute
        return any(_is_in(minute, begin, end) for begin, end in self.spans)

    def ends_in_s(self, now: float) -> float:
        """Give the seconds until batch may go on; 0 where it may."""
        at = datetime.fromtimestamp(now, tz=UTC).replace(second=0, microsecond=0)
        for minutes in range(_DAY_MIN + 1):
            later = (at + timedelta(minutes=minutes)).timestamp()
            if not self.rests_at(later):
                return max(0.0, later - now)
        return float("inf")


def quiet_hours_from(text: str) -> QuietHours:
    """Read `08:00-18:00`, or several with commas between; empty: none.

    Raises:
        InvalidRequest: it is something else, or leaves no time at all.
    """
    spans = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _SPAN.fullmatch(part)
        if match is None:
            raise InvalidRequest(f"quiet hours {part!r}: write HH:MM-HH:MM (UTC)", param="quiet_hours")
        hour, minute, until_hour, until_minute = (int(group) for group in match.groups())
        spans.append((hour * 60 + minute, (until_hour * 60 + until_minute) % _DAY_MIN))
    hours = QuietHours(tuple(spans))
    if spans and hours.ends_in_s(0.0) == float("inf"):
        raise InvalidRequest(f"quiet hours {text!r} leave no time to run", param="quiet_hours")
    return hours


def _is_in(minute: int, begin: int, end: int) -> bool:
    if begin == end:  # the whole day
        return True
    return begin <= minute < end if begin < end else minute >= begin or minute < end
