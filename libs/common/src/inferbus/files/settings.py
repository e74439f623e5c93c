"""Where files are kept (section FILES: `INFERBUS_FILES_URL` and so on); the same in every process that reads or writes them."""

from __future__ import annotations

import msgspec

_DAY_S = 86_400


class FilesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes in bytes, times in seconds.

    `url` is a folder, or anything fsspec knows (`s3://bucket/prefix`); `options` is a JSON object for that file system
    (`{"endpoint_url": ...}`; keys of S3 come better from its own environment variables).
    """

    url: str = ".inferbus/files"
    options: str = "{}"
    threads: int = 8
    """Threads for the file system's blocking calls: as many bodies are moved at once."""
    timeout_s: float = 60.0
    """A call of the storage that takes longer has failed."""

    max_file_bytes: int = 1024 * 1024 * 1024
    """Largest file that may be uploaded."""
    max_tenant_files: int = 10_000
    """A tenant that has so many files uploads no more; 0: any number."""
    max_tenant_bytes: int = 100 * 1024 * 1024 * 1024
    """A tenant's files may be so many bytes together; 0: any number."""
    max_uploads: int = 32
    """Uploads at once in one gateway; each holds up to two blocks of 8 MB. One more is a 503 with Retry-After."""
    upload_idle_s: float = 60.0
    """An upload that brings nothing for that long is given up."""
    default_expiry_s: int = 30 * _DAY_S
    """How long a file is kept whose uploader does not say; 0: for ever."""
