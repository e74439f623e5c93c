"""Results: a checkpoint's parts, put together in the order of the input: the output, and the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pyarrow as pa

from inferbus.files.file_systems import open_fs
from inferbus.pipeline import columns
from inferbus.pipeline.checkpoint import DONE, FAILED, Checkpoint
from inferbus.pipeline.formats import BLOCK_ROWS, CSV, JSONL, write_rows
from inferbus.pipeline.parts import Part
from inferbus.pipeline.row_batch import Row

Found = list[tuple[int, Part, int]]
"""Results that follow each other: row, part, place there."""


class Sink(Protocol):
    """Where an output goes."""

    @property
    def url(self) -> str: ...

    @property
    def format(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...


class Written(Protocol):
    """Takes the rows of an output as tables of one schema."""

    def __call__(self, tables: Iterator[pa.Table], schema: pa.Schema) -> int: ...


async def write_results(checkpoint: Checkpoint, sink: Sink, errors_url: str, written: Written | None = None) -> int:
    """Write the output, and the dead letters where there are some; gives how many rows the output has. `written` takes
    the output where it is no file."""
    loop = asyncio.get_running_loop()
    schema = await schema_of(checkpoint) if sink.format != JSONL else None
    if schema is not None and sink.format == CSV:
        schema = columns.flat(schema)

    def found(state: str) -> Iterator[Found]:
        """Give results to a writer in a thread, from the storage, which the loop reads."""
        source = _found(checkpoint, state)
        while (batch := asyncio.run_coroutine_threadsafe(_next(source), loop).result()) is not None:
            yield batch

    def write() -> int:
        if checkpoint.failed:
            fs, errors = open_fs(errors_url, sink.options)
            write_rows(fs, errors, JSONL, (_dead_of(one) for one in found(FAILED)), None)
        if schema is None:
            fs, path = open_fs(sink.url, sink.options)
            return write_rows(fs, path, JSONL, (_rows_of(one) for one in found(DONE)), None)
        tables = (_table_of(one, schema) for one in found(DONE))
        if written is not None:
            return written(tables, schema)
        fs, path = open_fs(sink.url, sink.options)
        return write_rows(fs, path, sink.format, tables, schema)

    return await asyncio.to_thread(write)


async def schema_of(checkpoint: Checkpoint) -> pa.Schema:
    """Find the columns of an output, and types that all their values fit."""
    schema = pa.schema([])
    async for part in checkpoint.all_parts():
        done = [at for at, state in enumerate(part.states) if state == DONE]
        if done:
            one = part.own().schema if part.is_columns else columns.schema_of(part.values(done))
            schema = columns.unified([schema, one])
    return schema


async def _next(source: AsyncIterator[Found]) -> Found | None:
    return await anext(source, None)


async def _found(checkpoint: Checkpoint, state: str) -> AsyncIterator[Found]:
    batch: Found = []
    states: dict[int, list[str]] = {}
    async for row, part, at in checkpoint.in_order():
        known = states.get(id(part))
        if known is None:
            states = {id(one): states[id(one)] for _, one, _ in batch if id(one) in states}
            known = states[id(part)] = part.states
        if known[at] == state:
            batch.append((row, part, at))
        if len(batch) >= BLOCK_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _by_part(found: Found) -> list[tuple[Part, list[int], list[int]]]:
    """Say of each part which of its rows are there, and where they belong."""
    groups: dict[int, tuple[Part, list[int], list[int]]] = {}
    for place, (_, part, at) in enumerate(found):
        group = groups.setdefault(id(part), (part, [], []))
        group[1].append(at)
        group[2].append(place)
    return list(groups.values())


def _rows_of(found: Found) -> list[Row]:
    rows: list[Row] = [{}] * len(found)
    for part, ats, places in _by_part(found):
        for place, row in zip(places, part.values(ats), strict=True):
            rows[place] = row
    return rows


def _dead_of(found: Found) -> list[Row]:
    return [{"row": row} | value for (row, _, _), value in zip(found, _rows_of(found), strict=True)]


def _table_of(found: Found, schema: pa.Schema) -> pa.Table:
    groups = _by_part(found)
    if not all(part.is_columns for part, _, _ in groups):
        return columns.table_of(_rows_of(found), schema)
    tables = [columns.fitted(part.own().take(pa.array(ats, pa.int64())), schema) for part, ats, _ in groups]
    order = [0] * len(found)
    for n, place in enumerate(place for _, _, places in groups for place in places):
        order[place] = n
    return pa.concat_tables(tables).take(pa.array(order, pa.int64()))
