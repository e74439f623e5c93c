"""RowBatch: rows by columns, as they go from stage to stage. Columns are Arrow's, where Arrow gives every value back as it
was; what it would change (dicts of different keys, numbers of two kinds, objects of one's own) stays as it is beside them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

Row = dict[str, Any]
_EXACT = frozenset({str, int, float, bool, bytes, dt.date})
_EXACT_ITEMS = frozenset({str, int, float, bool})
_AT_ONCE = 32
_NOT_ARROW = (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError)


class RowBatch(msgspec.Struct, frozen=True):
    """`count` rows that have the same columns: `names`, in order. Each is in `arrow`, or in `odd` as a list of values."""

    count: int
    names: tuple[str, ...]
    arrow: pa.RecordBatch
    odd: dict[str, list[Any]]

    def rows(self, names: Sequence[str] | None = None) -> Iterator[Row]:
        """Give the rows, a few at a time made of Arrow; with `names` only those columns that are there."""
        wanted = self.names if names is None else tuple(name for name in self.names if name in names)
        arrow = self.arrow.select([name for name in wanted if name not in self.odd])
        for start in range(0, self.count, _AT_ONCE):
            for n in range(start, min(self.count, start + _AT_ONCE)):
                if n == start:
                    columns = [
                        self.odd[name][start : start + _AT_ONCE] if name in self.odd
                        else arrow.column(name).slice(start, _AT_ONCE).to_pylist()
                        for name in wanted
                    ]  # fmt: skip
                yield {name: column[n - start] for name, column in zip(wanted, columns, strict=True)}

    def row(self, n: int) -> Row:
        """Give one row."""
        return next(self.slice(n, 1).rows())

    def slice(self, start: int, count: int) -> RowBatch:
        """Give some rows that are together; Arrow's are not copied."""
        count = max(0, min(count, self.count - start))
        odd = {name: values[start : start + count] for name, values in self.odd.items()}
        return RowBatch(count, self.names, self.arrow.slice(start, count), odd)

    def take(self, places: Sequence[int]) -> RowBatch:
        """Give the rows at these places."""
        if len(places) == self.count and all(a == b for a, b in enumerate(places)):
            return self
        odd = {name: [values[n] for n in places] for name, values in self.odd.items()}
        arrow = self.arrow.take(pa.array(places, pa.int64())) if self.arrow.num_columns else self.arrow
        return RowBatch(len(places), self.names, arrow, odd)

    def with_columns(self, columns: Mapping[str, list[Any]]) -> RowBatch:
        """Give the same rows with these columns besides, or in the place of those that had their names."""
        arrow = {name: self.arrow.column(name) for name in self.names if name not in self.odd and name not in columns}
        odd = {name: values for name, values in self.odd.items() if name not in columns}
        for name, values in columns.items():
            made = _column(values)
            if made is None:
                odd[name] = values
            else:
                arrow[name] = made
        names = tuple(dict.fromkeys((*self.names, *columns)))
        return RowBatch(self.count, names, pa.RecordBatch.from_pydict(arrow), odd)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What batches must have in common to be put together."""
        return (self.names, tuple(self.odd), self.arrow.schema)


_NOTHING = RowBatch(0, (), pa.RecordBatch.from_pydict({}), {})


def of_arrow(batch: pa.RecordBatch) -> RowBatch:
    """Take what was read as Arrow; of columns of one name the last one."""
    names = batch.schema.names
    if len(set(names)) < len(names):
        batch = batch.select([at for at, name in enumerate(names) if name not in names[at + 1 :]])
    return RowBatch(batch.num_rows, tuple(batch.schema.names), batch, {})


def of_rows(rows: Sequence[Row]) -> Iterator[tuple[list[int], RowBatch]]:
    """Put rows that have the same columns together; gives their places and the batch of each such kind."""
    places: dict[tuple[str, ...], list[int]] = {}
    for n, row in enumerate(rows):
        places.setdefault(tuple(row), []).append(n)
    for names, ns in places.items():
        empty = msgspec.structs.replace(_NOTHING, count=len(ns))
        yield ns, empty.with_columns({name: [rows[n][name] for n in ns] for name in names})


def joined(batches: Sequence[RowBatch]) -> RowBatch:
    """Put batches of one shape together."""
    if len(batches) == 1:
        return batches[0]
    odd = {name: [value for one in batches for value in one.odd[name]] for name in batches[0].odd}
    arrow = pa.concat_batches([one.arrow for one in batches]) if batches[0].arrow.num_columns else batches[0].arrow
    return RowBatch(sum(one.count for one in batches), batches[0].names, arrow, odd)


def digest_of(batch: RowBatch) -> str:
    """Say what tells these rows from others."""
    text = msgspec.json.encode(list(batch.rows()), enc_hook=str)
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _column(values: list[Any]) -> pa.Array | None:
    """Make a column of Arrow, where it has a type that gives these values back; else None."""
    kinds = set(map(type, values)) - {type(None)}
    if any(hasattr(kind, "tolist") for kind in kinds):  # numpy's, and what is like it: numbers and lists of them
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
        kinds = set(map(type, values)) - {type(None)}
    if len(kinds) > 1:
        return None
    kind = next(iter(kinds), None)
    if kind is list:
        items = {type(item) for value in values if value is not None for item in value}
        exact = len(items) == 1 and items <= _EXACT_ITEMS
    elif kind is dt.datetime:
        exact = len({value.tzinfo for value in values if value is not None}) == 1
    else:
        exact = kind is None or kind in _EXACT
    if not exact:
        return None
    try:
        return pa.array(values)
    except _NOT_ARROW:
        return None
