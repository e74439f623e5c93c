"""Kinds of values: what the catalogue calls them, Feast's types, and how a value gets into and out of Feast's protobuf."""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable
from typing import Any

import msgspec
from feast.protos.feast.types import Value_pb2 as wire
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
    from_value_type,
)
from feast.value_type import ValueType

Value = wire.Value
Decode = Callable[[Any], Any]


class Kind(msgspec.Struct, frozen=True):
    """One kind: its name, the field of a protobuf value that has it, and, of lists, the message they are in."""

    name: str
    field: str
    list_type: Any = None

    def decode(self) -> Decode:
        """Give the function from a protobuf value (which has one) to a plain one."""
        get = operator.attrgetter(f"{self.field}.val" if self.list_type is not None else self.field)
        if self.name == "bytes":
            return lambda value: base64.b64encode(get(value)).decode()
        if self.list_type is not None:
            return lambda value: list(get(value))
        return get

    def encode(self, value: Any) -> Any:
        """Make the protobuf value of a plain one; None is null.

        Raises:
            TypeError, ValueError: it is not of this kind.
        """
        if value is None:
            return Value()
        if self.list_type is not None:
            return Value(**{self.field: self.list_type(val=value)})
        if self.name == "bytes" and isinstance(value, str):
            value = base64.b64decode(value, validate=True)
        if self.name == "timestamp":
            value = int(value)
        return Value(**{self.field: value})


_SCALARS: tuple[tuple[str, str, FeastType, str, Any], ...] = (
    ("int32", "int32_val", Int32, "int32_list_val", wire.Int32List),
    ("int64", "int64_val", Int64, "int64_list_val", wire.Int64List),
    ("float32", "float_val", Float32, "float_list_val", wire.FloatList),
    ("float64", "double_val", Float64, "double_list_val", wire.DoubleList),
    ("string", "string_val", String, "string_list_val", wire.StringList),
    ("bool", "bool_val", Bool, "bool_list_val", wire.BoolList),
    ("bytes", "bytes_val", Bytes, "bytes_list_val", wire.BytesList),
    ("timestamp", "unix_timestamp_val", UnixTimestamp, "unix_timestamp_list_val", wire.Int64List),
)
KINDS: dict[str, Kind] = {}
for _name, _field, _type, _list_field, _list_type in _SCALARS:
    KINDS[_name] = Kind(_name, _field)
    KINDS[f"list<{_name}>"] = Kind(f"list<{_name}>", _list_field, _list_type)
_OF_TYPE: list[tuple[FeastType, str]] = [(type_, name) for name, _, type_, _, _ in _SCALARS]


def kind_of(dtype: FeastType) -> Kind:
    """Name a Feast type.

    Raises:
        ValueError: a type that cannot be asked for over the bus.
    """
    if isinstance(dtype, Array):
        return KINDS[f"list<{kind_of(dtype.base_type).name}>"]
    for type_, name in _OF_TYPE:
        if dtype == type_:
            return KINDS[name]
    raise ValueError(f"values of type {dtype} cannot be served; use one of {', '.join(KINDS)}")


def kind_of_value_type(value_type: ValueType) -> Kind:
    """Name a type of join keys. Raises as `kind_of`."""
    return kind_of(from_value_type(value_type))
