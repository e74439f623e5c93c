"""Messages of protobuf as Triton's own HTTP has them: JSON in which 64-bit numbers are numbers, not text."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict

_LONG = (
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
)


def plain(message: Any, *, defaults: bool = False) -> dict[str, Any]:
    """Give a message as JSON has it; `defaults`: also what is not set."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=defaults
    )
    _fix(message.DESCRIPTOR, found)
    return found


def _fix(descriptor: Descriptor, found: dict[str, Any]) -> None:
    for field in descriptor.fields:
        value = found.get(field.name)
        if value is None:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fix_map(field.message_type.fields_by_name["value"], value)
        elif field.message_type is not None:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    _fix(field.message_type, part)
        elif field.cpp_type in _LONG:
            found[field.name] = [int(part) for part in value] if isinstance(value, list) else int(value)


def _fix_map(field: FieldDescriptor, found: dict[str, Any]) -> None:
    for key, value in found.items():
        if field.message_type is not None:
            _fix(field.message_type, value)
        elif field.cpp_type in _LONG:
            found[key] = int(value)
