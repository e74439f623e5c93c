"""Windows of a view as Parquet files, one for each slice of entities: what training data is joined with."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from inferbus_features.domain.definitions import BOOL, FLOAT64, INT64, STRING, WindowedView
from inferbus_features.domain.history_rows import BEGIN, END, HistoryRow

_TYPES = {INT64: pa.int64(), FLOAT64: pa.float64(), STRING: pa.string(), BOOL: pa.bool_()}
_TIME = pa.timestamp("us", tz="UTC")


def schema_of(view: WindowedView) -> Any:
    """Name the columns: join keys, the window's times, the aggregates."""
    keys = [(name, _TYPES[view.source.keys[name]]) for name in view.join_keys]
    values = [(one.name, _TYPES[view.type_of(one)]) for one in view.aggregates]
    return pa.schema([*keys, (BEGIN, _TIME), (END, _TIME), *values])


class SliceFile:
    """One slice's file, there under its name once it is whole: a slice that is done again takes the place of itself. Use as
    a context manager.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, view: WindowedView, n: int, of: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{view.name}-{n:04d}-of-{of:04d}.parquet"
        self._part = self._path.with_suffix(".part")
        self._schema = schema_of(view)
        self._writer = pq.ParquetWriter(self._part, self._schema)

    def write(self, rows: Iterable[HistoryRow]) -> None:
        """Add rows."""
        found = [
            (*row.key, _time(row.begin_us), _time(row.end_us), *row.values)
            for row in rows
        ]  # fmt: skip
        if not found:
            return
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*found, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._part.rename(self._path)
        else:
            self._part.unlink(missing_ok=True)


def _time(us: int) -> datetime:
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)
