"""Print the AsyncAPI 3.0 document: `python -m inferbus.asyncapi > docs/asyncapi.json` (a contract test compares).

Everything comes from the route table and the contracts; nothing about a subject or a message is written here.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from types import ModuleType
from typing import Any

import msgspec

from inferbus.contracts import control, dead_letter, door, step
from inferbus.contracts.envelope import HEADERS, Envelope
from inferbus.route_table import ROUTES, Route

_MSGPACK, _JSON, _RAW = "application/msgpack", "application/json", "application/octet-stream"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SCHEMAS = "#/components/schemas/"

Json = dict[str, Any]


def asyncapi_document() -> bytes:
    """Give the document as indented JSON, always the same for the same code."""
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Inferbus",
            "version": "1",
            "description": "Subjects and messages of the bus, wire version 1. In words, with examples: docs/contracts.md. "
            "Arrays with titled items are msgpack arrays; what is a base64 string here is msgpack's bin there.",
        },
        "servers": {"bus": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "defaultContentType": _JSON,
        "channels": {route.name: _channel(route) for route in ROUTES},
        "operations": {
            name: operation
            for route in ROUTES
            for name, operation in (
                (f"{route.name}.send", _operation(route, "send", route.sender)),
                (f"{route.name}.receive", _operation(route, "receive", route.receiver)),
            )
        },
        "components": {"messages": {route.name: _message(route) for route in ROUTES}, "schemas": _schemas()},
    }
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n"


def _channel(route: Route) -> Json:
    channel: Json = {
        "address": route.subject,
        "summary": route.summary,
        "messages": {route.name: {"$ref": f"#/components/messages/{route.name}"}},
        "x-transport": route.transport,
    }
    if names := _PLACEHOLDER.findall(route.subject):
        channel["parameters"] = {name: {} for name in names}
    return channel


def _operation(route: Route, action: str, actor: str) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{route.name}"},
        "messages": [{"$ref": f"#/channels/{route.name}/messages/{route.name}"}],
        "summary": f"{actor}: {action}",
        "tags": [{"name": name.strip()} for name in actor.split(",")],
    }


def _message(route: Route) -> Json:
    message: Json = {"name": route.name, "summary": route.summary, "contentType": _content_type(route)}
    if route.payload is not None:
        payload, _ = _schema_of(route.payload)
        message["payload"] = {"type": "array", "items": payload} if route.payload == step.Frame else payload
    if headers := _headers(route):
        message["headers"] = headers
    return message


def _content_type(route: Route) -> str:
    if route.payload is None:
        return _JSON if route.name in ("request", "reply") else _RAW
    array_like = any(type_.__struct_config__.array_like for type_ in _structs(route.payload))
    return _MSGPACK if array_like else _JSON


_DOOR_HEADERS = {
    "request": {"REPLY_TO", "PATH", "REQUEST_ID", "DEADLINE_MS"},
    "reply": {
        "STATUS", "SEQ", "END", "RETRY_AFTER", "LIMIT_REQUESTS", "REMAINING_REQUESTS", "RESET_REQUESTS", "LIMIT_TOKENS",
        "REMAINING_TOKENS", "RESET_TOKENS",
    },
}  # fmt: skip


def _headers(route: Route) -> Json | None:
    if route.headers is Envelope:
        return _envelope_headers()
    if route.name in ("request", "reply"):
        return _constants(door, _DOOR_HEADERS[route.name])
    return _constants(dead_letter) if route.name == "dlq" else None


def _envelope_headers() -> Json:
    required = {field.name for field in msgspec.structs.fields(Envelope) if field.required}
    return {
        "type": "object",
        "properties": {"Ib-Version": {"type": "string"}} | {name: {"type": "string"} for name in HEADERS},
        "required": ["Ib-Version", *(name for name, field in HEADERS.items() if field in required)],
    }


def _constants(module: ModuleType, only: set[str] | None = None) -> Json:
    """Give the header constants of a module as a schema, each described by the string that follows it."""
    properties: Json = {}
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name == "PREFIX" or (only is not None and name not in only):
            continue
        header = properties[getattr(module, name)] = {"type": "string"}
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            header["description"] = " ".join(str(after.value.value).split())
    return {"type": "object", "properties": properties}


def _structs(type_: Any) -> tuple[Any, ...]:
    return getattr(type_, "__args__", (type_,))


def _schema_of(type_: Any) -> tuple[Json, Json]:
    (schema,), components = msgspec.json.schema_components([type_], ref_template=_SCHEMAS + "{name}")
    return schema, components


def _schemas() -> Json:
    payloads = [route.payload for route in ROUTES if route.payload is not None]
    _, components = msgspec.json.schema_components([*payloads, step.Answer], ref_template=_SCHEMAS + "{name}")
    for module in (step, control):
        for name, type_ in vars(module).items():
            if name in components and type_.__struct_config__.array_like:
                _name_items(components[name], type_)
    for schema in components.values():
        schema["description"] = inspect.cleandoc(schema["description"])
    return components


def _name_items(schema: Json, type_: Any) -> None:
    """Give the items of an array the names of their fields; the first one is the kind where there is a tag."""
    names = [field.name for field in msgspec.structs.fields(type_)]
    if type_.__struct_config__.tag is not None:
        names.insert(0, "kind")
    for item, name in zip(schema["prefixItems"], names, strict=True):
        item["title"] = name


if __name__ == "__main__":
    sys.stdout.buffer.write(asyncapi_document())
