"""Uploads: a body that is there as a whole or not at all, in a folder or in an object store. Every call blocks."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

BLOCK_BYTES = 8 * 1024 * 1024
"""What object stores take in parts, of which they take 10,000."""


class LocalUpload:
    """A file that gets its name when it is complete. Beside its place, so that this is a rename."""

    def __init__(self, target: str) -> None:
        self._target = Path(target)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._target.with_name(f"{self._target.name}.part-{secrets.token_hex(4)}")
        self._file = self._part.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def commit(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._target)

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


class RemoteUpload:
    """An object that is shown when it is complete: put at once where it is small, else uploaded in parts."""

    def __init__(self, fs: Any, target: str) -> None:
        self._fs, self._target = fs, target
        self._small: list[bytes] = []
        self._room = BLOCK_BYTES
        self._file: Any = None

    def write(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            return
        self._small.append(data)
        self._room -= len(data)
        if self._room <= 0:
            self._file = self._fs.open(self._target, "wb", block_size=BLOCK_BYTES, autocommit=False)
            self._file.write(b"".join(self._small))
            self._small = []

    def commit(self) -> None:
        if self._file is None:
            self._fs.pipe_file(self._target, b"".join(self._small))
        else:
            self._file.close()
            self._file.commit()

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file.closed = True  # else it would upload the rest when it is collected


Upload = LocalUpload | RemoteUpload


def begin_upload(fs: Any, target: str) -> Upload:
    """Begin to write a body. `commit` makes it be there, `discard` forgets it."""
    return LocalUpload(target) if isinstance(fs, LocalFileSystem) else RemoteUpload(fs, target)
