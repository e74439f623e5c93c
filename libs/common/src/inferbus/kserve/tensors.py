"""Tensors on the wire: element types, raw little-endian bytes and the values of JSON, and what does not fit together.

The types and the raw form are the protocol's (KServe v2, binary tensor data extension): row-major, little-endian; each
element of BYTES has a length of 4 bytes in front.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from inferbus.errors import InvalidRequest

BYTES, BF16 = "BYTES", "BF16"
_FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
ITEM_BYTES = {name: struct.calcsize("<" + code) for name, code in _FORMATS.items()} | {BF16: 2}
"""Bytes of one element; BYTES has no fixed size."""
DATATYPES = (*ITEM_BYTES, BYTES)
_LENGTH = struct.Struct("<I")
_NUMBERS: set[type] = {int, float}
_OTHERS: dict[str, set[type]] = {BYTES: {str}, "BOOL": {bool}}


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input. Either `raw`, a slice of the body, or `data`, the values of JSON in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    raw: memoryview | None = None
    data: list[Any] | None = None


def elements_of(shape: Sequence[int]) -> int:
    """Give the number of elements."""
    return math.prod(shape)


def check_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> None:
    """Refuse raw bytes that are not exactly the tensor.

    Raises:
        InvalidRequest: it names the tensor, what its shape needs and what came.
    """
    expected = elements_of(shape)
    if datatype != BYTES:
        if expected * ITEM_BYTES[datatype] != len(raw):
            raise _refused(
                name,
                f"{datatype} of shape {shape_text(shape)} is {expected * ITEM_BYTES[datatype]} bytes, got {len(raw)}",
            )
        return
    if expected * _LENGTH.size > len(raw):
        raise _refused(
            name, f"BYTES of shape {shape_text(shape)} has {expected} lengths of 4 bytes, got {len(raw)} bytes in all"
        )
    at, count = 0, 0
    while at < len(raw) and count < expected:
        if at + _LENGTH.size > len(raw):
            raise _refused(name, f"element {count} needs a length of 4 bytes, {len(raw) - at} are left")
        (length,) = _LENGTH.unpack_from(raw, at)
        if at + _LENGTH.size + length > len(raw):
            raise _refused(name, f"element {count} is {length} bytes by its length, {len(raw) - at - 4} are left")
        at += _LENGTH.size + length
        count += 1
    if count != expected:
        raise _refused(name, f"shape {shape_text(shape)} has {expected} elements, got {count}")
    if at < len(raw):
        raise _refused(name, f"shape {shape_text(shape)} has {expected} elements, {len(raw) - at} bytes follow them")


def flat(name: str, datatype: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    """Give JSON values in row-major order: they come flat, or nested exactly as the shape says.

    Raises:
        InvalidRequest: it names the tensor, the shape or type expected and what came.
    """
    expected = elements_of(shape)
    level = data
    if len(shape) > 1 and data and type(data[0]) is list:
        level = [data]
        for depth, size in enumerate(shape):
            for part in level:
                if type(part) is not list:
                    raise _refused(name, f"shape {shape_text(shape)} has lists at depth {depth}, got {_kind(part)}")
                if len(part) != size:
                    raise _refused(
                        name, f"shape {shape_text(shape)} has {size} items at depth {depth}, got {len(part)}"
                    )
            level = [item for part in level for item in part]
    if len(level) != expected:
        raise _refused(name, f"shape {shape_text(shape)} has {expected} elements, got {len(level)}")
    _check_types(name, datatype, level)
    return level


def raw_of(tensor: Tensor) -> bytes | memoryview:
    """Give a tensor as raw bytes; those that came raw are not copied.

    Raises:
        InvalidRequest: a value does not fit the type (too large, not finite).
    """
    if tensor.raw is not None:
        return tensor.raw
    values = tensor.data or []
    if tensor.datatype == BYTES:
        return bytes_raw([value.encode() for value in values])
    try:
        packed = struct.pack(f"<{len(values)}{_FORMATS[tensor.datatype]}", *values)
    except (struct.error, OverflowError):
        raise _refused(tensor.name, f"{_misfit(tensor.datatype, values)!r} does not fit {tensor.datatype}") from None
    return packed


def bytes_raw(items: Sequence[bytes]) -> bytes:
    """Write elements of BYTES, each behind its length."""
    return b"".join([part for item in items for part in (_LENGTH.pack(len(item)), item)])


def values_of(datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> list[Any]:
    """Read raw bytes as values in row-major order: bool, int, float, or bytes.

    Raises:
        InvalidRequest: the bytes are not exactly the tensor.
    """
    check_raw("", datatype, shape, raw)
    count = elements_of(shape)
    if datatype == BF16:  # the upper half of an FP32
        halves = struct.unpack(f"<{count}H", raw)
        return list(struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *[half << 16 for half in halves])))
    if datatype != BYTES:
        return list(struct.unpack(f"<{count}{_FORMATS[datatype]}", raw))
    view, at, items = memoryview(raw), 0, []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size + length
        items.append(bytes(view[at - length : at]))
    return items


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as the protocol does: [1,32]."""
    return f"[{','.join(map(str, shape))}]"


def _check_types(name: str, datatype: str, values: list[Any]) -> None:
    if datatype == BF16:
        raise _refused(name, "BF16 has no form in JSON: send it as binary data")
    allowed = {int} if "INT" in datatype else _OTHERS.get(datatype, _NUMBERS)
    if set(map(type, values)) <= allowed:
        return
    wrong = next(value for value in values if type(value) not in allowed)
    raise _refused(name, f"expected values of {datatype}, got {_kind(wrong)}")


def _misfit(datatype: str, values: list[Any]) -> object:
    """Find the first value that cannot be packed."""
    for value in values:
        try:
            struct.pack("<" + _FORMATS[datatype], value)
        except (struct.error, OverflowError):
            return value
    return None


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


def _refused(name: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"tensor `{name}`: {rule}" if name else rule, param=name or None)
