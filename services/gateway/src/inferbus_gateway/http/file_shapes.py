"""Files as the OpenAI API describes them."""

from __future__ import annotations

import msgspec

from inferbus.contracts.files import FileRecord


class FileObject(msgspec.Struct, kw_only=True):
    """A file, as the OpenAI API describes one. `purpose` is `batch`, or `batch_output` for what a job has made."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class FileList(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[FileObject]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class FileDeleted(msgspec.Struct, kw_only=True):
    id: str
    object: str = "file"
    deleted: bool = True


def describe_file(record: FileRecord) -> FileObject:
    return FileObject(
        id=record.id, bytes=record.bytes, created_at=record.created_at, filename=record.filename, purpose=record.purpose,
        expires_at=record.expires_at or None,
    )  # fmt: skip
