"""Windows: which minute, day or month a moment lies in. Pure; by server time, UTC, so that replicas agree."""

from __future__ import annotations

import calendar
import time

MINUTE, DAY, MONTH = SPANS = ("minute", "day", "month")
_MINUTE_S, _DAY_S = 60, 86_400


def window_of(span: str, now: float) -> int:
    """Number the window that `now` (Unix seconds, server time) lies in."""
    if span == MINUTE:
        return int(now // _MINUTE_S)
    if span == DAY:
        return int(now // _DAY_S)
    moment = time.gmtime(now)
    return moment.tm_year * 12 + moment.tm_mon - 1


def end_of(span: str, window: int) -> float:
    """Give the moment a window ends, in Unix seconds of server time."""
    if span == MINUTE:
        return float((window + 1) * _MINUTE_S)
    if span == DAY:
        return float((window + 1) * _DAY_S)
    year, month = divmod(window + 1, 12)
    return float(calendar.timegm((year, month + 1, 1, 0, 0, 0)))
