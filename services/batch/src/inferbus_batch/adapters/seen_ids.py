"""SqliteSeenIds: which `custom_id`s an input has used, on disk, so that memory does not grow with it."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from types import TracebackType
from typing import Self

_CACHE_KIB = 4096


class SqliteSeenIds:
    """Digests of 63 bits in a temporary file, which goes with the process. Use as a context manager.

    Of a million ids two share one with a probability of about 1 in 18 million.
    """

    def __enter__(self) -> Self:
        self._file = tempfile.NamedTemporaryFile(prefix="inferbus-ids-")
        self._db = sqlite3.connect(self._file.name, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("CREATE TABLE seen (digest INTEGER PRIMARY KEY)")
        self._db.execute("BEGIN")
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._file.close()

    def add(self, custom_id: str) -> bool:
        """Put one in; False if it was there."""
        digest = int.from_bytes(hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=8).digest()) >> 1
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
