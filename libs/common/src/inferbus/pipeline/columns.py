"""Columns of an output: types that all values of a column fit, and values made to fit. Where there is no such type, or a
format has none, a column is text: strings as they are, bytes as base64, everything else as JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from inferbus.pipeline.row_batch import Row


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Give all columns of these, each with a type their values fit."""
    fields: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field.type if known is None else _common(known, field.type)
    return pa.schema(list(fields.items()))


def schema_of(rows: Sequence[Row]) -> pa.Schema:
    """Give the columns of rows, each with a type their values fit."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, _array([row.get(name) for row in rows]).type) for name in names])


def flat(schema: pa.Schema) -> pa.Schema:
    """Give these columns for a format that has plain values only: lists, structs and bytes are text."""
    return pa.schema([(one.name, one.type if _is_plain(one.type) else pa.string()) for one in schema])


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a table these columns and types; what it lacks is null."""
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if column.type != field.type:
            if field.type == pa.string():
                column = pa.array([_text(value) for value in column.to_pylist()], pa.string())
            else:
                column = column.cast(field.type, safe=False)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def table_of(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Make a table of rows."""
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if field.type == pa.string():
            values = [_text(value) for value in values]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    try:
        schemas = [pa.schema([("it", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("it").type
    except pa.ArrowException:
        return pa.string()


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return msgspec.json.encode(value, enc_hook=str).decode()
