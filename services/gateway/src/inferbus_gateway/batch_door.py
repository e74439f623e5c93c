"""BatchDoor: what the HTTP door needs for files and batches."""

from __future__ import annotations

import msgspec

from inferbus.batch.dead_letters import DeadLetters
from inferbus.batch.job_book import JobBook
from inferbus.errors import NotFound
from inferbus.files.book import FileBook
from inferbus.files.settings import FilesSettings


class BatchDoor(msgspec.Struct, frozen=True, kw_only=True):
    """Files and jobs of all tenants; whoever asks, asks for one tenant's."""

    files: FileBook
    jobs: JobBook
    dead_letters: DeadLetters
    settings: FilesSettings


def opened(door: BatchDoor | None) -> BatchDoor:
    """Raises NotFound where this gateway has no storage of files."""
    if door is None:
        raise NotFound("this gateway keeps no files")
    return door
