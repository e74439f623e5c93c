"""What everybody who keeps bodies needs of a storage. `FsspecStorage` is the one there is."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Protocol

import msgspec


class Written(msgspec.Struct, frozen=True):
    """A body that is stored: its size in bytes and its SHA-256 (hex)."""

    bytes: int
    sha256: str


class BodyStat(msgspec.Struct, frozen=True):
    """What a storage says of a body. `mark` is another after every write (an ETag, or times and inode); `modified` is a
    Unix time by the storage's clock, 0 where it has none."""

    name: str
    bytes: int
    mark: str
    modified: float = 0.0


class Storage(Protocol):
    """Bodies by name. A name is words of letters, digits, `_`, `-` and `.` with `/` between (`files/<tenant>/<file id>`).

    Everything raises `StorageDown` where the storage cannot be used now: nothing that was there is lost.
    """

    async def write(self, name: str, pieces: AsyncIterable[bytes], *, limit_bytes: int = 0) -> Written:
        """Store a body, in constant memory. It is there as a whole or not at all; one of the same name is replaced.

        Raises:
            TooLarge: more than `limit_bytes` (0: any number) came. What `pieces` raises; nothing is stored then.
        """
        ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Read from an offset on, `length` bytes or to the end, a piece at a time.

        Raises:
            NotFound: there is no such body.
        """
        ...

    async def stat(self, name: str) -> BodyStat:
        """Say how large a body is.

        Raises:
            NotFound: there is no such body.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove a body; one that is not there stays so."""
        ...

    async def delete_below(self, folder: str) -> None:
        """Remove every body whose name begins with `<folder>/`."""
        ...

    async def bodies(self, folder: str) -> list[BodyStat]:
        """Give the bodies that are in a folder, not those in folders of it."""
        ...

    async def folders(self, folder: str) -> list[str]:
        """Give the names of the folders in a folder, itself included (`files/acme`)."""
        ...

    async def close(self) -> None:
        """Begin nothing more."""
        ...
