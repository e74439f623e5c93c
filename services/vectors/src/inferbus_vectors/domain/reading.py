"""Reading an index message: its documents, each on its own, so that a faulty one does not take the others with it. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from inferbus.contracts.vectors import Document, IndexMessage
from inferbus.errors import DependencyDown, InferbusError, InvalidRequest

_TAG = "vectors.index.v1"
_FAMILY = "vectors.index."
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_LATER_S = 5.0
_message = msgspec.json.Decoder(IndexMessage)
_encode = msgspec.json.Encoder().encode


class Read(msgspec.Struct, frozen=True):
    """A document of a message, or why it is none; then `raw` is its JSON as it came and `id` its id, if it has one."""

    n: int
    document: Document | None = None
    error: InferbusError | None = None
    raw: bytes = b""
    id: str = ""


class _Loose(msgspec.Struct):
    documents: list[msgspec.Raw]
    type: str = _TAG


class _Named(msgspec.Struct):
    id: Any = ""


def documents_in(data: bytes) -> list[Read]:
    """Read a message's documents.

    Raises:
        InvalidRequest: it is no index message. DependencyDown: it speaks a later version, which another process may know.
    """
    try:
        return [Read(n, document) for n, document in enumerate(_message.decode(data).documents)]
    except _UNREADABLE:
        pass
    try:
        loose = msgspec.json.decode(data, type=_Loose)
    except _UNREADABLE as exc:
        return _as_python_writes_it(data, exc)
    _check_version(loose.type)
    return [_read(n, bytes(raw)) for n, raw in enumerate(loose.documents)]


def _check_version(type_: str) -> None:
    if type_ == _TAG:
        return
    if type_.startswith(_FAMILY):
        raise DependencyDown(f"the message is a {type_}, this process reads {_TAG}", retry_after_s=_LATER_S)
    raise InvalidRequest(f"the message is a {type_[:80]}, not a {_TAG}", param="type")


def _read(n: int, raw: bytes) -> Read:
    try:
        return Read(n, msgspec.json.decode(raw, type=Document))
    except _UNREADABLE as exc:
        text = str(exc)
        found = InvalidRequest(text, param=text.partition("$.")[2].rstrip("`)") or None)
        return Read(n, error=found, raw=raw, id=_id_of(raw))


def _as_python_writes_it(data: bytes, cause: Exception) -> list[Read]:
    """Read what is JSON but for NaN and Infinity, which Python and others write: then only those documents are faulty."""
    try:
        found = json.loads(data)
        documents = found["documents"]
        _check_version(str(found.get("type", _TAG)))
        if not isinstance(documents, list):
            raise TypeError("documents is no list")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidRequest(f"the message cannot be read: {cause}") from cause
    return [_read_loaded(n, one) for n, one in enumerate(documents)]


def _read_loaded(n: int, one: Any) -> Read:
    where = _not_finite(one, "")
    if where is None:
        return _read(n, _encode(one))
    id_ = str(one.get("id", "")) if isinstance(one, dict) else ""
    error = InvalidRequest(f"{where} has a number that is not finite", param=where)
    return Read(n, error=error, raw=json.dumps(one).encode(), id=id_[:512])


def _not_finite(value: Any, path: str) -> str | None:
    """Say where a number is that is not finite: its field."""
    if isinstance(value, float) and not math.isfinite(value):
        return path or "document"
    if isinstance(value, dict):
        parts = ((f"{path}.{name}" if path else str(name), each) for name, each in value.items())
    elif isinstance(value, list):
        parts = ((path, each) for each in value)
    else:
        return None
    return next((found for part, each in parts if (found := _not_finite(each, part)) is not None), None)


def _id_of(raw: bytes) -> str:
    try:
        return str(msgspec.json.decode(raw, type=_Named).id)[:512]
    except _UNREADABLE:
        return ""
