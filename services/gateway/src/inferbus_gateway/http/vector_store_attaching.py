"""Putting files into a vector store: noted first, then worked on; and what its collection must know for that."""

from __future__ import annotations

import re
import time

import msgspec

from inferbus.contracts import vector_manage as verbs
from inferbus.contracts.vector_stores import COMPLETED, IN_PROGRESS, Attribute, StoreFile, StoreRecord
from inferbus.contracts.vectors import BOOLEAN, FLOAT, KEYWORD, CollectionRecord, Field
from inferbus.errors import InvalidRequest
from inferbus_gateway.http.vector_operations import Session
from inferbus_gateway.http.vector_store_chunking import chunking_of
from inferbus_gateway.http.vector_store_shapes import NewStoreFile, checked_pairs

_ATTRIBUTE = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def attach_all(session: Session, store: StoreRecord, wanted: list[NewStoreFile], batch: str) -> list[StoreFile]:
    """Note files and begin to put them in; those that are in already stay as they are.

    Raises:
        NotFound: there is no such file of this tenant. InvalidRequest: attributes or chunking are impossible.
    """
    identity, door = session
    attributes = [checked_attributes(one.attributes) for one in wanted]
    cut = [chunking_of(one.chunking_strategy) for one in wanted]
    records = [await door.files_of(identity.tenant, one.file_id) for one in wanted]
    await see_to_fields(session, store.id, {key: value for one in attributes for key, value in one.items()})
    made = []
    now = time.time()
    for record, said, chunking in zip(records, attributes, cut, strict=True):
        file = StoreFile(
            file_id=record.id, store=store.id, tenant=identity.tenant, created=now, filename=record.filename,
            attributes=said, bytes=record.bytes, batch=batch, updated=now,
            chunking=chunking,
        )  # fmt: skip
        if not await door.book.add(file):
            replaced = await door.book.change_file(file, lambda held, file=file: _renewed(held, file))  # type: ignore[misc]
            file = replaced or file
        door.store_files.begin(identity, file)
        made.append(file)
    return made


def checked_attributes(said: dict[str, Attribute] | None) -> dict[str, Attribute]:
    """Raises InvalidRequest where attributes cannot be filtered by; `param` names the key."""
    found = checked_pairs(said, "attributes")
    for key in found:
        if _ATTRIBUTE.fullmatch(key) is None:
            raise InvalidRequest(
                f"attributes.{key[:64]}: a key is letters, digits, _ and -", param=f"attributes.{key[:64]}"
            )
    return found


async def see_to_fields(session: Session, name: str, attributes: dict[str, Attribute]) -> None:
    """Have a store's collection index what its files may be filtered by."""
    if not attributes:
        return
    identity, door = session
    held = await door.manage(identity, verbs.GET, verbs.OneCollection(name=name), CollectionRecord)
    known = {field.name for field in held.fields}
    more = [field for field in map(_field, attributes.items()) if field.name not in known]
    if more:
        wanted = verbs.ChangeCollection(name=name, fields=[*held.fields, *more])
        await door.manage(identity, verbs.CHANGE, wanted, CollectionRecord)


def _field(pair: tuple[str, Attribute]) -> Field:
    key, value = pair
    kind = BOOLEAN if isinstance(value, bool) else FLOAT if isinstance(value, int | float) else KEYWORD
    return Field(name=f"attributes.{key}", type=kind)


def _renewed(held: StoreFile, file: StoreFile) -> StoreFile:
    """What is in, or on its way, with the same attributes and cut alike stays; all else begins anew."""
    if held.status in (COMPLETED, IN_PROGRESS) and _same(held, file):
        return msgspec.structs.replace(held, batch=file.batch or held.batch)
    return msgspec.structs.replace(file, created=held.created)


def _same(held: StoreFile, file: StoreFile) -> bool:
    return (held.attributes, held.chunking) == (file.attributes, file.chunking)
