"""All windows of a view, computed from its events' files into Parquet: one slice of a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from inferbus.contracts.features import STREAM_VIEW, Catalogue, FeatureJob
from inferbus_features.adapters.duckdb_history import BadHistory, DuckDbHistory, HistoryFiles, Slice
from inferbus_features.adapters.parquet_windows import SliceFile
from inferbus_features.domain.definitions import WindowedView, from_record
from inferbus_features.domain.history_rows import HistoryRow, rows_of

_ROWS = 5000


class Stopped(Exception):
    """The process is to stop; the slice is done again."""


def write_slice(catalogue: Catalogue, job: FeatureJob, n: int, stopping: Callable[[], bool]) -> int:
    """Write a slice's file; gives its rows.

    Raises:
        BadHistory: there is no such view with windows, the files are not its source's, or the folder cannot be written to.
        Stopped.
    """
    view = _view_of(catalogue, job.view)
    files = HistoryFiles(
        paths=tuple(job.paths), timestamp_column=job.timestamp_column, arrived_column=job.arrived_column
    )
    until_us, count = int((job.until or time.time()) * 1e6), 0
    try:
        with DuckDbHistory() as history, SliceFile(Path(job.out), view, n, job.slices) as file:
            found = history.windows(view, files, Slice(n, job.slices))
            rows = chain.from_iterable(rows_of(view, key, windows, until_us) for key, windows in found)
            for part in _parts(rows):
                if stopping():
                    raise Stopped
                file.write(part)
                count += len(part)
    except OSError as exc:
        raise BadHistory(f"{job.out} cannot be written: {exc}") from exc
    return count


def _view_of(catalogue: Catalogue, name: str) -> WindowedView:
    view = next((one for one in catalogue.views if one.name == name), None)
    if view is None or view.type != STREAM_VIEW:
        raise BadHistory(f"there is no view {name!r} with windows")
    return from_record(view.aggregation)


def _parts(rows: Iterator[HistoryRow]) -> Iterator[list[HistoryRow]]:
    while part := list(islice(rows, _ROWS)):
        yield part
