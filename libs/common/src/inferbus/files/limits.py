"""How much a tenant may have of files: what would be over it is refused before it is kept. Results of its batches count too,
and are never refused. Two uploads at the same moment are each seen without the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from inferbus.contracts.files import FileRecord
from inferbus.errors import TooLarge
from inferbus.files.book import FileBook, is_expired
from inferbus.files.settings import FilesSettings


async def check_room(files: FileBook, tenant: str, new_bytes: int, settings: FilesSettings) -> None:
    """See that a tenant may have one more file of this size.

    Raises:
        TooLarge: it has as much as it may. DependencyDown: the bus does not answer.
    """
    if settings.max_tenant_files or settings.max_tenant_bytes:
        check_limits(await files.all_of(tenant), new_bytes, settings, time.time())


def check_limits(records: Iterable[FileRecord], new_bytes: int, settings: FilesSettings, now: float) -> None:
    """As `check_room`, of records. Pure."""
    sizes = [record.bytes for record in records if not is_expired(record, now)]
    if 0 < settings.max_tenant_files <= len(sizes):
        raise TooLarge(
            f"your organisation has {len(sizes)} files, the limit is {settings.max_tenant_files}: delete some first",
            param="file",
        )
    if 0 < settings.max_tenant_bytes < sum(sizes) + new_bytes:
        raise TooLarge(
            f"your organisation's files are {sum(sizes)} bytes, with {new_bytes} more they would be over the limit of "
            f"{settings.max_tenant_bytes} bytes: delete some first", param="file",
        )  # fmt: skip
