"""Every window of an entity as a row of a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from inferbus_features.domain.definitions import Scalar, WindowedView
from inferbus_features.domain.window_state import WindowValues

BEGIN, END = "window_begin", "event_timestamp"
"""Columns of a window's times. A join as of some time (`event_timestamp` at most that of a label) takes the newest window that
was over by then: nothing of what came after is in it."""


class HistoryRow(msgspec.Struct, frozen=True):
    """One window of one entity: from `begin_us` up to, and not including, `end_us`."""

    key: tuple[Scalar, ...]
    begin_us: int
    end_us: int
    values: tuple[Scalar, ...]


def rows_of(
    view: WindowedView, key: tuple[Scalar, ...], windows: Iterable[WindowValues], until_us: int
) -> Iterator[HistoryRow]:
    """Give the windows that were over by `until_us`, as they come."""
    window = view.window
    for found in windows:
        end_us = window.begin_of(found.last_pane + 1)
        if end_us <= until_us:
            yield HistoryRow(key, end_us - window.length_us, end_us, found.values)
