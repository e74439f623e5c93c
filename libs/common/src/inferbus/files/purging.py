"""Purging: files that have expired, and bodies no record names. One pass; whoever may write files calls it now and then."""

from __future__ import annotations

import time

import msgspec

from inferbus import routes
from inferbus.admission import revisions
from inferbus.bus import Bus
from inferbus.codec import from_json
from inferbus.contracts.files import FileRecord
from inferbus.errors import NotFound
from inferbus.files.book import FileBook, is_expired

ORPHAN_AFTER_S = 86_400.0
"""A body nobody knows is taken for one that is being uploaded for that long."""


class Purged(msgspec.Struct, frozen=True):
    """What a pass has removed."""

    expired: int = 0
    orphans: int = 0


async def purge(bus: Bus, book: FileBook, *, orphan_after_s: float = ORPHAN_AFTER_S) -> Purged:
    """Remove what has expired, of all tenants, and bodies without a record that are older than `orphan_after_s`.

    Raises:
        DependencyDown, StorageDown: it is not done; the next pass goes on.
    """
    now = time.time()
    known: dict[str, set[str]] = {}
    expired = 0
    for data in await revisions.read_all(bus, routes.KV_FILES):
        record = from_json(data, FileRecord, what="file")
        if is_expired(record, now):
            expired += await _forget(book, record)
        else:
            known.setdefault(record.tenant, set()).add(record.body)
    orphans = 0
    for folder in await book.storage.folders("files"):
        bodies = known.get(folder.rsplit("/", 1)[1], set())
        for body in await book.storage.bodies(folder):
            if body.name not in bodies and 0 < body.modified < now - orphan_after_s:
                await book.storage.delete(body.name)
                orphans += 1
    return Purged(expired, orphans)


async def _forget(book: FileBook, record: FileRecord) -> int:
    try:
        await book.delete(record.tenant, record.id)
    except NotFound:  # another did it
        return 0
    return 1
