"""Parts: what came of some rows, as a checkpoint keeps it: a file of Arrow, with the rows' own columns and a few of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from inferbus.pipeline.row_batch import Row, RowBatch, joined
from inferbus.pipeline.stage_run import Batch, Lost

DONE, DROPPED, FAILED = "done", "dropped", "failed"
_ROW, _STATE, _OTHERS = "row", "state", "others"
_OURS = pa.schema([(_ROW, pa.int64()), (_STATE, pa.string()), (_OTHERS, pa.large_binary())])
_OWN = "."
"""In front of the name of a column of the rows' own."""
_NAMES, _DIGESTS = b"inferbus.names", b"inferbus.digests"
_MOST_SHAPES = 4
"""Rows of more different shapes than that at once are kept as JSON."""


class Results:
    """What came of rows since the last commit."""

    def __init__(self) -> None:
        self.count = 0
        self.batches: list[Batch] = []
        self.lost: list[Lost] = []

    def add(self, result: Batch | Lost | None) -> None:
        if isinstance(result, Batch):
            self.batches.append(result)
            self.count += result.rows.count
        elif result is not None:
            self.lost.append(result)
            self.count += 1


class Part(msgspec.Struct, frozen=True):
    """Some rows' results. A row that is done has the columns `names` (of Arrow, or in the JSON of `others`); without names
    everything is there. `digests` are of blocks of the input that were read before."""

    table: pa.Table
    names: tuple[str, ...]
    digests: dict[int, str]

    @property
    def numbers(self) -> list[int]:
        found: list[int] = self.table.column(_ROW).to_pylist()
        return found

    @property
    def states(self) -> list[str]:
        found: list[str] = self.table.column(_STATE).to_pylist()
        return found

    @property
    def is_columns(self) -> bool:
        """Whether the rows that are done are Arrow's alone."""
        return bool(self.names) and len(self.names) == self.table.num_columns - len(_OURS)

    def own(self) -> pa.Table:
        """Give the rows' own columns, as far as they are Arrow's."""
        names = [name for name in self.names if _OWN + name in self.table.column_names]
        return self.table.select([_OWN + name for name in names]).rename_columns(names)

    def values(self, places: Sequence[int]) -> list[Row]:
        """Give what came of the rows at these places: their columns, or what was wrong with them."""
        taken = Part(self.table.take(pa.array(places, pa.int64())), self.names, {})
        rows = taken.own().to_pylist() if taken.own().num_columns else [{} for _ in places]
        others = taken.table.column(_OTHERS).to_pylist()
        found = []
        for state, row, other in zip(taken.states, rows, others, strict=True):
            more = {} if other is None else msgspec.json.decode(other)
            if state == DONE and self.names:
                whole = row | more
                found.append({name: whole[name] for name in self.names})
            else:
                found.append(more)
        return found


def parts_of(results: Results, digests: dict[int, str]) -> Iterator[tuple[Part, bytes]]:
    """Give the parts results are kept in, and their bytes: one for each shape of rows, as a rule one."""
    shapes: dict[str, list[Batch]] = {}
    for batch in results.batches:
        shapes.setdefault(str(batch.rows.shape), []).append(batch)
    groups = list(shapes.values())
    plain = [one for group in groups[_MOST_SHAPES:] for one in group]
    tables = []
    for group in groups[:_MOST_SHAPES]:
        numbers, rows = [n for one in group for n in one.numbers], joined([one.rows for one in group])
        if rows.odd and _encoded(rows.odd) is None:  # objects JSON has nothing for
            plain += group
        else:
            tables.append((_columns(numbers, rows), rows.names))
    rest = _plain(plain, results.lost)
    if rest.num_rows and tables:
        table, names = tables[0]
        tables[0] = (pa.concat_tables([table, rest], promote_options="default"), names)
        whole = [one for one in plain if one.rows.count]
        if whole:  # a row that is whole in JSON is told by a part without names
            tables[0] = (table, names)
            tables.append((rest, ()))
    elif rest.num_rows:
        tables.append((rest, ()))
    for table, names in tables:
        yield _written(Part(table, names, digests))


def read_part(data: bytes) -> Part:
    """Read what `parts_of` gave."""
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    metadata = table.schema.metadata or {}
    names = msgspec.json.decode(metadata[_NAMES], type=tuple[str, ...])
    return Part(table, names, msgspec.json.decode(metadata[_DIGESTS], type=dict[int, str]))


def _written(part: Part) -> tuple[Part, bytes]:
    metadata = {_NAMES: msgspec.json.encode(part.names), _DIGESTS: msgspec.json.encode(part.digests)}
    table = part.table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return part, sink.getvalue().to_pybytes()


def _columns(numbers: list[int], rows: RowBatch) -> pa.Table:
    others: list[bytes | None] = [None] * rows.count
    if rows.odd:
        others = [
            msgspec.json.encode(dict(zip(rows.odd, values, strict=True)))
            for values in zip(*rows.odd.values(), strict=True)
        ]
    columns = dict(zip(_OURS.names, _our_columns(numbers, [DONE] * rows.count, others), strict=True))
    own = {_OWN + name: rows.arrow.column(name) for name in rows.arrow.schema.names}
    return pa.table(columns | own)


def _plain(batches: Iterable[Batch], lost: Iterable[Lost]) -> pa.Table:
    """Keep rows whole as JSON, and what was wrong with others."""
    numbers: list[int] = []
    states: list[str] = []
    values: list[bytes | None] = []
    for batch in batches:
        for number, row in zip(batch.numbers, batch.rows.rows(), strict=True):
            data = _encoded(row)
            numbers.append(number)
            states.append(DONE if data is not None else FAILED)
            values.append(_error_of(row) if data is None else data)
    for one in lost:
        numbers.append(one.number)
        states.append(DROPPED if one.error is None else FAILED)
        values.append(None if one.error is None else _encoded(one.error) or _error_of(one.error))
    return pa.Table.from_arrays(_our_columns(numbers, states, values), schema=_OURS)


def _our_columns(numbers: list[int], states: list[str], others: Sequence[bytes | None]) -> list[pa.Array]:
    arrays = zip((numbers, states, others), _OURS.types, strict=True)
    return [pa.array(values, kind) for values, kind in arrays]


def _encoded(value: Any) -> bytes | None:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, UnicodeError, OverflowError):
        return None


def _error_of(row: Row) -> bytes:
    """A row that no file can take is a dead letter, as readable as it can be made."""
    message = "a value of this row has no form in JSON"
    shown = {str(name): value if _encoded(value) is not None else repr(value)[:200] for name, value in row.items()}
    return msgspec.json.encode({"stage": "write", "error": "unwritable", "message": message, "input": shown})
