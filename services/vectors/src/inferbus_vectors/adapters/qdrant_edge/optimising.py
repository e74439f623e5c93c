"""Optimising: a shard's graphs are built in a copy, by a process of its own, since building holds the interpreter for
minutes; meanwhile the shard serves. What changes in it is noted and done to the copy too, which then takes its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import msgspec

from inferbus_vectors.adapters.qdrant_edge.shard import Shard
from inferbus_vectors.adapters.qdrant_edge.tied import tie_to_parent

_MOST_BYTES = 512 * 1024 * 1024
_NICE = 10


class Optimising:
    """One shard on its way to a new generation in `folder`."""

    def __init__(self, shard: str, folder: Path) -> None:
        self.shard = shard
        self.folder = folder
        self.changes: deque[tuple[str, msgspec.Raw]] = deque()
        """What is to be done to the copy yet, in order."""
        self.copy: Shard | None = None
        self._bytes = 0
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(folder)])
        self.pidfd = os.pidfd_open(self._process.pid)

    def note(self, op: str, body: msgspec.Raw) -> bool:
        """Note a change; False where it is more than can be kept, and the copy must be given up."""
        self.changes.append((op, msgspec.Raw(bytes(body))))
        self._bytes += len(bytes(body))
        return self._bytes <= _MOST_BYTES

    def built(self) -> bool | None:
        """Say whether the copy is built; None: not yet."""
        status = self._process.poll()
        return None if status is None else status == 0

    def open(self) -> Shard:
        self.copy = Shard.load(self.folder)
        return self.copy

    def stop(self) -> None:
        """End it, wherever it is."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self.copy is not None:
            self.copy.close()
            self.copy = None
        os.close(self.pidfd)


def main(folder: str) -> None:
    tie_to_parent()
    os.nice(_NICE)
    shard = Shard.load(Path(folder))
    shard.optimise()
    shard.close()


if __name__ == "__main__":
    main(sys.argv[1])
